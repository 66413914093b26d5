"""From items to JSON, in small pieces."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ._config import Config
from .errors import ConversionError
from .rollout import Exchange, Item, Rollout

SEQUENCES = "sequences"
EXCHANGES = "exchanges"

PIECE = 512
"""Numbers that are encoded at a time: some 0.2 milliseconds of floats. Less would mean more handing over of the interpreter."""

_NAMES = {"raw_logprobs": "raw", "processed_logprobs": "processed"}

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "order",
)

_FIELDS = (
    "loss_mask",
    "cached_tokens",
    "finish_reason",
    "sampling",
    "policy_version",
    "weight_versions",
    "logprobs_mode",
)


@dataclass(frozen=True)
class Encoded:
    """An item as JSON, ready to stand in a body."""

    kind: str
    id: str
    json: bytes


def sampling_of(source: Any) -> Optional[dict[str, Any]]:
    """Sampling parameters by the API's names, from a mapping or an object with attributes; None stays None.

    Unknown keys of a mapping are kept: the server refuses them by name, which is better than dropping them.
    """
    if source is None:
        return None
    if isinstance(source, Mapping):
        return dict(source)
    found = {name: getattr(source, name) for name in SAMPLING if getattr(source, name, None) is not None}
    if not found:
        raise ConversionError("invalid_sampling", f"{type(source).__name__} has none of {', '.join(SAMPLING)}")
    return found


def plain_list(values: Any, name: str) -> list[Any]:
    """A list of what a list, tuple, tensor, array or range holds."""
    if isinstance(values, list):
        return values
    if values is None or isinstance(values, (str, bytes, bytearray, Mapping)):
        raise ConversionError("invalid_type", f"{name} must be a list, not {type(values).__name__}")
    tolist = getattr(values, "tolist", None)
    if tolist is not None:
        values = tolist()
    try:
        return list(values)
    except TypeError as error:
        raise ConversionError("invalid_type", f"{name} must be a list: {error}") from error


def dumps(value: Any) -> str:
    """Compact JSON. NaN and infinities stand bare, as Python writes them and Plumbline reads them."""
    return json.dumps(value, separators=(",", ":"), default=_scalar)


def _scalar(value: Any) -> Any:
    """Scalars and arrays of numpy and torch; anything else is refused."""
    for method in ("item", "tolist"):
        convert = getattr(value, method, None)
        if convert is not None:
            try:
                return convert()
            except ValueError:  # item() of more than one element
                continue
    raise TypeError(f"{type(value).__name__} is no JSON")


def _nothing() -> None:
    pass


def encode(item: Item, name: str, config: Config, pause: Callable[[], None] = _nothing) -> Encoded:
    """The item as JSON; `name` is its id if it has none of its own. `pause` is called after each piece.

    Raises ConversionError for what the server could only refuse.
    """
    try:
        if isinstance(item, Mapping):
            return _mapping(item, name, pause)
        if isinstance(item, Exchange):
            return _exchange(item, name, config, pause)
        if isinstance(item, Rollout):
            return _rollout(item, name, config, pause)
    except ConversionError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConversionError("not_serialisable", str(error)[:300]) from error
    raise ConversionError("invalid_type", f"{type(item).__name__} is no rollout")


def _rollout(rollout: Rollout, name: str, config: Config, pause: Callable[[], None]) -> Encoded:
    fields = {key: getattr(rollout, key) for key in _FIELDS}
    fields["sampling"] = sampling_of(rollout.sampling if rollout.sampling is not None else config.sampling)
    mode = rollout.logprobs_mode or config.logprobs_mode
    fields["logprobs_mode"] = None if mode is None else _NAMES.get(mode, mode)
    identity = _identity(rollout.id, name)
    arrays = {
        "prompt_token_ids": rollout.prompt_token_ids,
        "completion_token_ids": rollout.completion_token_ids,
        "logprobs": rollout.logprobs,
    }
    return _sequence(identity, arrays, fields, pause)


def _mapping(item: Mapping[str, Any], name: str, pause: Callable[[], None]) -> Encoded:
    """A body's element as the API has it: unknown fields go along and are refused by name."""
    identity = _identity(item.get("id"), name)
    fields = {key: value for key, value in item.items() if key != "id"}
    if "response" in fields:
        return Encoded(EXCHANGES, identity, _object({"id": identity, **fields}, pause))
    arrays = {key: fields.pop(key, None) for key in ("prompt_token_ids", "completion_token_ids", "logprobs")}
    if "sampling" in fields:
        fields["sampling"] = sampling_of(fields["sampling"])
    return _sequence(identity, arrays, fields, pause)


def _sequence(identity: str, arrays: Mapping[str, Any], fields: Mapping[str, Any], pause: Callable[[], None]) -> Encoded:
    lists = {key: plain_list(values, key) for key, values in arrays.items()}
    if fields.get("loss_mask") is not None:
        lists["loss_mask"] = plain_list(fields["loss_mask"], "loss_mask")
    tokens = len(lists["completion_token_ids"])
    if tokens == 0:
        raise ConversionError("empty_completion", "completion_token_ids is empty")
    for key in ("logprobs", "loss_mask"):
        if key in lists and len(lists[key]) != tokens:
            raise ConversionError("length_mismatch", f"{key} has {len(lists[key])} values for {tokens} tokens")
    parts = ['{"id":' + dumps(identity)]
    parts += [f',"{key}":{dumps(value)}' for key, value in fields.items() if key != "loss_mask" and value is not None]
    pause()
    for key, values in lists.items():
        parts.append(f',"{key}":')
        parts += _array(values, pause)
    parts.append("}")
    return Encoded(SEQUENCES, identity, "".join(parts).encode("ascii"))


def _exchange(item: Exchange, name: str, config: Config, pause: Callable[[], None]) -> Encoded:
    mode = item.logprobs_mode or config.logprobs_mode
    sampling = item.sampling if item.sampling is not None else config.sampling
    identity = _identity(item.id, name)
    fields: dict[str, Any] = {
        "id": identity,
        "path": item.path,
        "engine": item.engine,
        "sampling": sampling_of(sampling),
        "policy_version": item.policy_version,
        "logprobs_mode": None if mode is None else _NAMES.get(mode, mode),
        "request": item.request,
        "response": item.response.decode("utf-8") if isinstance(item.response, bytes) else item.response,
    }
    return Encoded(EXCHANGES, identity, _object({k: v for k, v in fields.items() if v is not None}, pause))


def _identity(own: Any, name: str) -> str:
    if own is None:
        return name
    if isinstance(own, str):
        return own
    if isinstance(own, int) and not isinstance(own, bool):
        return str(own)
    raise ConversionError("invalid_type", f"id must be a string, not {type(own).__name__}")


def _array(values: list[Any], pause: Callable[[], None]) -> list[str]:
    pieces: list[str] = []
    for start in range(0, len(values), PIECE):
        piece = dumps(values[start : start + PIECE])[1:-1]
        pieces.append("," + piece if pieces else piece)
        pause()
    return ["[", *pieces, "]"]


def _object(value: Any, pause: Callable[[], None]) -> bytes:
    """Any JSON value, piece by piece: an engine's body can be megabytes."""
    parts: list[str] = []
    _walk(value, parts, pause, 0)
    return "".join(parts).encode("ascii")


def _walk(value: Any, parts: list[str], pause: Callable[[], None], depth: int) -> None:
    # Small values at once; only what is large in bodies, dicts and lists near the top, is taken apart.
    if depth < 8 and isinstance(value, Mapping) and value:
        opening = "{"
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ConversionError("not_serialisable", f"{type(key).__name__} as a key of an object")
            parts.append(f"{opening}{dumps(key)}:")
            _walk(inner, parts, pause, depth + 1)
            opening = ","
        parts.append("}")
    elif depth < 8 and isinstance(value, (list, tuple)) and len(value) > PIECE:
        parts += _array(list(value), pause)
    elif depth < 8 and isinstance(value, (list, tuple)) and any(isinstance(inner, (Mapping, list)) for inner in value):
        opening = "["
        for inner in value:
            parts.append(opening)
            _walk(inner, parts, pause, depth + 1)
            opening = ","
        parts.append("]")
    else:
        parts.append(dumps(value))
        pause()


def rough_size(item: Any) -> int:
    """Bytes that an item will take, without looking at its numbers."""
    # In the rollout loop's own time, so the usual case comes first.
    try:
        if type(item) is Rollout:
            return 100 + 7 * len(item.prompt_token_ids) + 29 * len(item.completion_token_ids)
        if isinstance(item, Mapping) and "completion_token_ids" in item:
            return 100 + 7 * len(item.get("prompt_token_ids", ())) + 29 * len(item["completion_token_ids"])
        response = item.get("response") if isinstance(item, Mapping) else getattr(item, "response", None)
        if isinstance(response, (str, bytes)):
            return len(response)
        return 500 + _rough(response)
    except Exception:  # noqa: BLE001 (hostile objects are refused by `encode`, which says why)
        return 500


def _rough(value: Any, depth: int = 0) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping) and depth < 6:
        return sum(10 + _rough(inner, depth + 1) for inner in value.values())
    if isinstance(value, (list, tuple)) and value:
        # One stands for all of them.
        return len(value) * (2 + _rough(value[0], depth + 1))
    return 10


def envelope(run: str, engine: str, worker: Optional[str]) -> str:
    """What stands before the list of a body."""
    head = {"run": run, "engine": engine, "worker": worker}
    return dumps({key: value for key, value in head.items() if value is not None})[:-1]
