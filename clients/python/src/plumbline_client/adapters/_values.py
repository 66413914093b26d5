"""Reading tensors, arrays and lists without importing what made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Optional, Union

from .._encode import plain_list
from ..errors import ConversionError
from ..rollout import Rejected, Rollout

Converted = Union[Rollout, Rejected]


def strictly(items: Iterable[Converted]) -> list[Rollout]:
    """All rollouts, or ConversionError for the first that cannot be read."""
    rollouts = []
    for number, item in enumerate(items):
        if isinstance(item, Rejected):
            raise ConversionError(item.reason, f"rollout {number}: {item.detail}")
        rollouts.append(item)
    return rollouts


def each(count: int, convert: Callable[[int], Rollout]) -> Iterator[Converted]:
    """One rollout after the other; one that cannot be read does not stop the others."""
    for index in range(count):
        try:
            yield convert(index)
        except ConversionError as error:
            yield Rejected(error.reason, error.detail)
        except Exception as error:  # noqa: BLE001 (objects of many versions of many engines)
            yield Rejected("conversion_failed", f"{type(error).__name__}: {error}"[:300])


def read(source: Any, name: str) -> Any:
    """A field of a mapping or an attribute of an object; None if there is none."""
    if hasattr(source, "keys"):  # dict, TensorDict
        return source[name] if name in source.keys() else None  # noqa: SIM118 (TensorDict refuses `in`)
    return getattr(source, name, None)


def matrix(source: Any, name: str) -> Any:
    """A field that is a matrix; one on a GPU is copied as a whole, not row by row."""
    value = read(source, name)
    return value.cpu() if getattr(value, "is_cuda", False) else value


def needed(source: Any, name: str, reason: str, help_text: str = "") -> Any:
    """The same, or ConversionError."""
    value = matrix(source, name)
    if value is None:
        raise ConversionError(reason, f"{name} is missing" + (f": {help_text}" if help_text else ""))
    return value


def width(matrix: Any, rows: int, name: str) -> int:
    """Columns of a matrix that must have so many rows."""
    if len(matrix) != rows:
        raise ConversionError("length_mismatch", f"{name} has {len(matrix)} rows, prompts have {rows}")
    shape = getattr(matrix, "shape", None)
    if shape is not None and len(shape) != 2:
        raise ConversionError("length_mismatch", f"{name} has {len(shape)} dimensions instead of 2")
    return int(shape[1]) if shape is not None else (len(matrix[0]) if rows else 0)


def row(matrix: Any, index: int, name: str, length: Optional[int] = None) -> list[Any]:
    """A row as a list, of so many columns."""
    values = plain_list(matrix[index], name)
    if length is not None and len(values) != length:
        raise ConversionError("length_mismatch", f"{name}[{index}] has {len(values)} values instead of {length}")
    return values


def bits(values: list[Any], name: str) -> list[int]:
    """A mask of 0 and 1."""
    other = set(values) - {0, 1}
    if other:
        raise ConversionError("invalid_mask", f"{name} holds {other.pop()!r}; it must be 0 or 1")
    return list(map(int, values))


def left_padding(mask: list[int], name: str) -> int:
    """Number of zeros, all of which must come first."""
    zeros = mask.count(0)
    if 1 in mask[:zeros]:
        raise ConversionError("invalid_padding", f"{name} is not padded on the left: zeros between ones")
    return zeros


def unpadded_length(mask: list[int], name: str) -> int:
    """Number of ones, all of which must come first."""
    ones = mask.count(1)
    if 0 in mask[:ones]:
        raise ConversionError("invalid_padding", f"{name} is not padded on the right: zeros between ones")
    return ones


def as_list(values: Any, is_one: Callable[[Any], bool]) -> list[Any]:
    """One object, or a list of them."""
    return [values] if is_one(values) else list(values)


def id_of(ids: Optional[Iterable[str]], index: int) -> Optional[str]:
    """The caller's name for a rollout."""
    if ids is None:
        return None
    names = ids if isinstance(ids, (list, tuple)) else list(ids)
    if index >= len(names):
        raise ConversionError("length_mismatch", f"ids has {len(names)} names, rollout {index} has none")
    return str(names[index])


def shape_text(matrix: Any) -> str:
    """For messages."""
    shape = getattr(matrix, "shape", None)
    return "x".join(str(int(size)) for size in shape) if shape is not None else f"list of {len(matrix)}"
