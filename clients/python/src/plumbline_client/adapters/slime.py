"""slime: `Sample` (read against `slime/utils/types.py` of autumn 2026), also as `Sample.to_dict()`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Optional

from .._encode import plain_list
from ..errors import ConversionError
from ..rollout import Rollout, Sampling
from ._values import Converted, bits, each, needed, read, strictly


def from_slime(
    samples: Any,
    *,
    policy_version: Optional[str] = None,
    sampling: Optional[Sampling] = None,
    logprobs_mode: Optional[str] = None,
) -> list[Rollout]:
    """Rollouts of one sample, a list of them, or a list of groups.

    Reads `tokens`, `response_length`, `rollout_log_probs` and `loss_mask` (both of the response). The version is the sample's own if
    all of `weight_versions` agree; they come without positions, so a sample of several versions needs `policy_version`.
    Raises ConversionError for the first sample that cannot be read.
    """
    return strictly(iter_slime(samples, policy_version, sampling, logprobs_mode))


def iter_slime(
    samples: Any,
    policy_version: Optional[str] = None,
    sampling: Optional[Sampling] = None,
    logprobs_mode: Optional[str] = None,
) -> Iterator[Converted]:
    """The same, with `Rejected` in the place of what cannot be read."""
    every = list(_flat(samples))

    def convert(index: int) -> Rollout:
        rollout = _rollout(every[index], policy_version)
        rollout.sampling = sampling
        rollout.logprobs_mode = logprobs_mode
        return rollout

    return each(len(every), convert)


def measure_slime(samples: Any) -> tuple[int, int]:
    """Samples and about how many bytes they will take."""
    every = list(_flat(samples))
    return len(every), sum(100 + 7 * len(read(sample, "tokens")) + 24 * read(sample, "response_length") for sample in every)


def _flat(samples: Any) -> Iterator[Any]:
    if isinstance(samples, Mapping) or hasattr(samples, "tokens"):
        yield samples
        return
    for sample in samples:
        yield from _flat(sample)


def _rollout(sample: Any, policy_version: Optional[str]) -> Rollout:
    tokens = plain_list(needed(sample, "tokens", "missing_token_ids"), "tokens")
    length = needed(sample, "response_length", "missing_field")
    if not 0 <= length <= len(tokens):
        raise ConversionError("length_mismatch", f"response_length is {length}, tokens has {len(tokens)}")
    numbers = plain_list(
        needed(sample, "rollout_log_probs", "missing_logprobs", "slime keeps them only if it is told to"),
        "rollout_log_probs",
    )
    if len(numbers) != length:
        raise ConversionError("length_mismatch", f"rollout_log_probs has {len(numbers)} values for {length} tokens")
    mask = read(sample, "loss_mask")
    kept = None if mask is None else bits(plain_list(mask, "loss_mask"), "loss_mask")
    if kept is not None and len(kept) != length:
        raise ConversionError("length_mismatch", f"loss_mask has {len(kept)} values for {length} tokens")
    status = read(sample, "status")
    status = getattr(status, "value", status)
    index = read(sample, "index")
    prompt = len(tokens) - length
    return Rollout(
        prompt_token_ids=tokens[:prompt],
        completion_token_ids=tokens[prompt:],
        logprobs=numbers,
        loss_mask=kept,
        id=None if index is None else str(index),
        finish_reason={"completed": "stop", "truncated": "length"}.get(status, status),
        policy_version=policy_version if policy_version is not None else _version(sample),
    )


def _version(sample: Any) -> Optional[str]:
    versions = {str(version) for version in read(sample, "weight_versions") or () if version != "default"}
    if len(versions) > 1:
        detail = f"weight_versions are {sorted(versions)}, without positions; pass policy_version"
        raise ConversionError("several_weight_versions", detail)
    return versions.pop() if versions else None
