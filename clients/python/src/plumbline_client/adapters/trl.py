"""TRL: what `GRPOTrainer` and `VLLMClient` pass around (read against 1.16: `trainer/grpo_trainer.py`, `generation/vllm_client.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Optional

from .._encode import plain_list
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
    read,
    row,
    strictly,
    unpadded_length,
    width,
)


def from_trl(
    batch: Mapping[str, Any],
    *,
    policy_version: Optional[str] = None,
    sampling: Optional[Sampling] = None,
    logprobs_mode: Optional[str] = "processed",
    ids: Optional[Iterable[str]] = None,
) -> list[Rollout]:
    """Rollouts of one of TRL's dicts.

    - The inputs of `compute_loss`: padded tensors `prompt_ids`, `prompt_mask`, `completion_ids`, `completion_mask`,
      `sampling_per_token_logps`, and `tool_mask` where tools were used.
    - What `VLLMClient.generate` or a `rollout_func` gives back: lists `prompt_ids`, `completion_ids`, `logprobs` (one number for each
      token, or the most likely ones with `logprob_token_ids`), `env_mask` or `tool_mask`.

    TRL runs vLLM with processed logprobs: give `sampling` unless temperature, top-p, top-k, min-p and penalties are neutral.
    Raises ConversionError for the first rollout that cannot be read.
    """
    return strictly(iter_trl(batch, policy_version, sampling, logprobs_mode, ids))


def iter_trl(
    batch: Mapping[str, Any],
    policy_version: Optional[str] = None,
    sampling: Optional[Sampling] = None,
    logprobs_mode: Optional[str] = "processed",
    ids: Optional[Iterable[str]] = None,
) -> Iterator[Converted]:
    """The same, with `Rejected` in the place of what cannot be read."""
    completions = needed(batch, "completion_ids", "missing_token_ids")
    read_one = _padded(batch) if read(batch, "completion_mask") is not None else _lists(batch)
    names = None if ids is None else list(ids)

    def convert(index: int) -> Rollout:
        rollout = read_one(index)
        rollout.id = id_of(names, index)
        rollout.policy_version = policy_version
        rollout.sampling = sampling
        rollout.logprobs_mode = logprobs_mode
        return rollout

    return each(len(completions), convert)


def measure_trl(batch: Mapping[str, Any]) -> tuple[int, int]:
    """Completions and about how many bytes they will take."""
    prompts, completions = batch["prompt_ids"], batch["completion_ids"]
    if getattr(completions, "shape", None) is not None:
        before = width(prompts, len(completions), "prompt_ids")
        return len(completions), len(completions) * (100 + 7 * before + 31 * int(completions.shape[1]))
    each_prompt = sum(len(prompt) for prompt in prompts) // max(1, len(prompts))
    return len(completions), sum(100 + 7 * each_prompt + 31 * len(ids) for ids in completions)


def _padded(batch: Any) -> Callable[[int], Rollout]:
    completions = needed(batch, "completion_ids", "missing_token_ids")
    rows = len(completions)
    prompts = needed(batch, "prompt_ids", "missing_token_ids")
    prompt_mask = needed(batch, "prompt_mask", "missing_field")
    completion_mask = needed(batch, "completion_mask", "missing_field")
    numbers = needed(batch, "sampling_per_token_logps", "missing_logprobs", "TRL has them with use_vllm=True")
    tools = matrix(batch, "tool_mask")
    before, after = width(prompts, rows, "prompt_ids"), width(completions, rows, "completion_ids")

    def convert(index: int) -> Rollout:
        padding = left_padding(bits(row(prompt_mask, index, "prompt_mask", before), "prompt_mask"), "prompt_mask")
        mask = bits(row(completion_mask, index, "completion_mask", after), "completion_mask")
        length = unpadded_length(mask, "completion_mask")
        if length == 0:
            detail = "completion_mask is 0 throughout (mask_truncated_completions): its length is not known"
            raise ConversionError("masked_out", detail)
        kept = None if tools is None else bits(row(tools, index, "tool_mask", after), "tool_mask")[:length]
        return Rollout(
            prompt_token_ids=row(prompts, index, "prompt_ids", before)[padding:],
            completion_token_ids=row(completions, index, "completion_ids", after)[:length],
            logprobs=row(numbers, index, "sampling_per_token_logps", after)[:length],
            loss_mask=kept,
        )

    return convert


def _lists(batch: Any) -> Callable[[int], Rollout]:
    completions = batch["completion_ids"]
    prompts = needed(batch, "prompt_ids", "missing_token_ids")
    numbers = needed(batch, "logprobs", "missing_logprobs", "generate with logprobs=0")
    numbers_of = read(batch, "logprob_token_ids")
    mask = read(batch, "env_mask")
    mask = read(batch, "tool_mask") if mask is None else mask
    rows = len(completions)
    if len(prompts) == 0 or rows % len(prompts):
        raise ConversionError("length_mismatch", f"{rows} completions do not belong to {len(prompts)} prompts")
    for name, values in (("logprobs", numbers), ("logprob_token_ids", numbers_of), ("mask", mask)):
        if values is not None and len(values) != rows:
            raise ConversionError("length_mismatch", f"{name} has {len(values)} rows for {rows} completions")
    samples = rows // len(prompts)

    def convert(index: int) -> Rollout:
        tokens = plain_list(completions[index], "completion_ids")
        own = plain_list(numbers[index], "logprobs")
        if len(own) != len(tokens):
            raise ConversionError("length_mismatch", f"{len(own)} logprobs for {len(tokens)} tokens")
        if own and isinstance(own[0], (list, tuple)):
            own = _sampled(own, None if numbers_of is None else numbers_of[index], tokens)
        return Rollout(
            prompt_token_ids=plain_list(prompts[index // samples], "prompt_ids"),
            completion_token_ids=tokens,
            logprobs=own,
            loss_mask=None if mask is None else bits(plain_list(mask[index], "mask"), "mask"),
        )

    return convert


def _sampled(numbers: list[Any], ids: Any, tokens: list[Any]) -> list[Any]:
    """Of several candidates for each token the sampled one's: they are ordered by likelihood, so it need not be the first."""
    found = []
    for position, (candidates, token) in enumerate(zip(numbers, tokens)):
        if ids is None and len(candidates) == 1:
            found.append(candidates[0])
            continue
        named = list(ids[position]) if ids is not None else []
        if len(named) != len(candidates) or token not in named:
            raise ConversionError("missing_logprobs", f"position {position} has no logprob of its token {token}")
        found.append(candidates[named.index(token)])
    return found
