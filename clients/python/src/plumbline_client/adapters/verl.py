"""verl: the `DataProto` that `generate_sequences` gives back (read against 0.9.1: `experimental/agent_loop/agent_loop.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Optional

from ..errors import ConversionError
from ..rollout import Rollout, Sampling
from ._values import (
    Converted,
    bits,
    each,
    id_of,
    left_padding,
    matrix,
    needed,
    row,
    shape_text,
    strictly,
    unpadded_length,
    width,
)


def from_verl(
    data: Any,
    *,
    policy_version: Optional[str] = None,
    sampling: Optional[Sampling] = None,
    logprobs_mode: Optional[str] = "processed",
    ids: Optional[Iterable[str]] = None,
) -> list[Rollout]:
    """Rollouts of a `DataProto` (or its `batch`), one for each row.

    Reads `prompts` (padded on the left), `responses` (padded on the right), `attention_mask`, `response_mask` (0 = a tool's
    tokens: sent, masked) and `rollout_log_probs`, which needs `actor_rollout_ref.rollout.calculate_log_probs=True`. verl runs vLLM
    with processed logprobs; with SGLang pass `logprobs_mode="temperature"`. The temperature is `meta_info["temperature"]` unless
    `sampling` is given. Raises ConversionError for the first row that cannot be read.
    """
    return strictly(iter_verl(data, policy_version, sampling, logprobs_mode, ids))


def iter_verl(
    data: Any,
    policy_version: Optional[str] = None,
    sampling: Optional[Sampling] = None,
    logprobs_mode: Optional[str] = "processed",
    ids: Optional[Iterable[str]] = None,
) -> Iterator[Converted]:
    """The same, with `Rejected` in the place of what cannot be read."""
    batch = _batch(data)
    prompts = needed(batch, "prompts", "missing_token_ids")
    responses = needed(batch, "responses", "missing_token_ids")
    attention = needed(batch, "attention_mask", "missing_field")
    numbers = needed(batch, "rollout_log_probs", "missing_logprobs", "set rollout.calculate_log_probs=True")
    mask = matrix(batch, "response_mask")
    rows = len(prompts)
    before, after = width(prompts, rows, "prompts"), width(responses, rows, "responses")
    for name, values, columns in (
        ("attention_mask", attention, before + after),
        ("rollout_log_probs", numbers, after),
        ("response_mask", mask, after),
    ):
        if values is not None and width(values, rows, name) != columns:
            raise ConversionError("length_mismatch", f"{name} is {shape_text(values)}, it must have {columns} columns")
    if sampling is None:
        sampling = _sampling(data)
    names = None if ids is None else list(ids)

    def convert(index: int) -> Rollout:
        attended = bits(row(attention, index, "attention_mask", before + after), "attention_mask")
        padding = left_padding(attended[:before], "the prompt's attention_mask")
        length = unpadded_length(attended[before:], "the response's attention_mask")
        loss_mask = None
        if mask is not None:
            loss_mask = bits(row(mask, index, "response_mask", after), "response_mask")
            if 1 in loss_mask[length:]:
                raise ConversionError("invalid_mask", "response_mask is 1 on padding")
        return Rollout(
            prompt_token_ids=row(prompts, index, "prompts", before)[padding:],
            completion_token_ids=row(responses, index, "responses", after)[:length],
            logprobs=row(numbers, index, "rollout_log_probs", after)[:length],
            loss_mask=None if loss_mask is None else loss_mask[:length],
            id=id_of(names, index),
            policy_version=policy_version,
            sampling=sampling,
            logprobs_mode=logprobs_mode,
        )

    return each(rows, convert)


def measure_verl(data: Any) -> tuple[int, int]:
    """Rows and about how many bytes they will take."""
    batch = _batch(data)
    rows = len(batch["prompts"])
    before, after = width(batch["prompts"], rows, "prompts"), width(batch["responses"], rows, "responses")
    return rows, rows * (100 + 7 * before + 31 * after)


def _batch(data: Any) -> Any:
    batch = getattr(data, "batch", None)
    return data if batch is None else batch


def _sampling(data: Any) -> Optional[dict[str, Any]]:
    meta = getattr(data, "meta_info", None)
    temperature = meta.get("temperature") if isinstance(meta, dict) else None
    return None if temperature is None else {"temperature": temperature}
