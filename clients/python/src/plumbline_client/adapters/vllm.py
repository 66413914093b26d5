"""vLLM: `LLM.generate` and `AsyncLLM` (read against 0.32 and 0.33: `vllm/outputs.py`, `vllm/logprobs.py`).

For a vLLM server send the bodies themselves: `Client.submit_exchange`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

from .._encode import plain_list
from ..errors import ConversionError
from ..rollout import Rollout, Sampling
from ._values import Converted, as_list, each, needed, strictly


def from_vllm(
    outputs: Any,
    *,
    policy_version: Optional[str] = None,
    sampling: Optional[Sampling] = None,
    logprobs_mode: Optional[str] = None,
) -> list[Rollout]:
    """Rollouts of one or many `RequestOutput`, one for each of their `outputs`, in order.

    Needs `SamplingParams(logprobs=0)` (or more). `sampling` may be that `SamplingParams`. Ids are `{request_id}-{index}`.
    Raises ConversionError for the first completion that cannot be read.
    """
    return strictly(iter_vllm(outputs, policy_version, sampling, logprobs_mode))


def iter_vllm(
    outputs: Any,
    policy_version: Optional[str] = None,
    sampling: Optional[Sampling] = None,
    logprobs_mode: Optional[str] = None,
) -> Iterator[Converted]:
    """The same, with `Rejected` in the place of what cannot be read."""
    pairs = [(request, completion) for request in _requests(outputs) for completion in request.outputs]

    def convert(index: int) -> Rollout:
        request, completion = pairs[index]
        rollout = _rollout(request, completion)
        rollout.policy_version = policy_version
        rollout.sampling = sampling
        rollout.logprobs_mode = logprobs_mode
        return rollout

    return each(len(pairs), convert)


def measure_vllm(outputs: Any) -> tuple[int, int]:
    """Completions and about how many bytes they will take."""
    completions = [(request, completion) for request in _requests(outputs) for completion in request.outputs]
    size = sum(100 + 7 * len(r.prompt_token_ids or ()) + 29 * len(c.token_ids) for r, c in completions)
    return len(completions), size


def _requests(outputs: Any) -> list[Any]:
    return as_list(outputs, lambda one: hasattr(one, "outputs"))


def _rollout(request: Any, completion: Any) -> Rollout:
    if completion.finish_reason is None:
        raise ConversionError("not_finished", f"request {request.request_id} is still being sampled")
    prompt = needed(request, "prompt_token_ids", "missing_token_ids")
    tokens = plain_list(completion.token_ids, "token_ids")
    positions = needed(completion, "logprobs", "missing_logprobs", "ask for SamplingParams(logprobs=0)")
    if len(positions) != len(tokens):
        raise ConversionError("length_mismatch", f"{len(positions)} positions of logprobs for {len(tokens)} tokens")
    logprobs = []
    for index, token in enumerate(tokens):
        # The dict also holds the most likely tokens: the sampled one is looked up by its id.
        entry = positions[index].get(token)
        if entry is None:
            raise ConversionError("missing_logprobs", f"position {index} has no logprob of its token {token}")
        logprobs.append(getattr(entry, "logprob", entry))
    return Rollout(
        prompt_token_ids=prompt,
        completion_token_ids=tokens,
        logprobs=logprobs,
        id=f"{request.request_id}-{completion.index}",
        finish_reason=completion.finish_reason,
        cached_tokens=getattr(request, "num_cached_tokens", None),
    )
