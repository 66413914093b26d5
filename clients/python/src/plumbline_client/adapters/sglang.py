"""SGLang: `Engine.generate` and bodies of `/generate` (read against 0.5.23: `srt/managers/tokenizer_manager.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Optional

from .._encode import plain_list
from ..errors import ConversionError
from ..rollout import Rollout, Sampling
from ._values import Converted, as_list, each, needed, strictly


def from_sglang(
    outputs: Any,
    input_ids: Any = None,
    *,
    policy_version: Optional[str] = None,
    sampling: Optional[Sampling] = None,
    logprobs_mode: Optional[str] = None,
) -> list[Rollout]:
    """Rollouts of one output or a list of them, in order. Needs `return_logprob=True`.

    `input_ids` is what was passed to the engine: one prompt's ids or a list of them; with `n` samples for each prompt the outputs
    belong to prompt `index // n`. Without it an output must hold `prompt_token_ids`, or input logprobs from the first token on
    (`logprob_start_len=0`). The version is the engine's own (`weight_version`) unless `policy_version` is given. Ids are the
    engine's. Raises ConversionError for the first output that cannot be read.
    """
    return strictly(iter_sglang(outputs, input_ids, policy_version, sampling, logprobs_mode))


def iter_sglang(
    outputs: Any,
    input_ids: Any = None,
    policy_version: Optional[str] = None,
    sampling: Optional[Sampling] = None,
    logprobs_mode: Optional[str] = None,
) -> Iterator[Converted]:
    """The same, with `Rejected` in the place of what cannot be read."""
    every = _outputs(outputs)
    prompts = _prompts(input_ids, len(every))

    def convert(index: int) -> Rollout:
        rollout = _rollout(every[index], None if prompts is None else prompts[index])
        if policy_version is not None:
            rollout.policy_version, rollout.weight_versions = policy_version, None
        rollout.sampling = sampling
        rollout.logprobs_mode = logprobs_mode
        return rollout

    return each(len(every), convert)


def measure_sglang(outputs: Any) -> tuple[int, int]:
    """Outputs and about how many bytes they will take."""
    every = _outputs(outputs)
    tokens = sum(len(output["meta_info"].get("output_token_logprobs") or ()) for output in every)
    prompts = sum(output["meta_info"].get("prompt_tokens") or 0 for output in every)
    return len(every), 100 * len(every) + 7 * prompts + 29 * tokens


def _outputs(outputs: Any) -> list[Any]:
    return as_list(outputs, lambda one: isinstance(one, Mapping))


def _prompts(input_ids: Any, count: int) -> Optional[list[Any]]:
    """The prompt of each output."""
    if input_ids is None:
        return None
    ids = plain_list(input_ids, "input_ids")
    prompts = [ids] if ids and isinstance(ids[0], int) else ids
    if not prompts or count % len(prompts):
        raise ConversionError("length_mismatch", f"{count} outputs do not belong to {len(prompts)} prompts")
    samples = count // len(prompts)
    return [prompts[index // samples] for index in range(count)]


def _rollout(output: Any, prompt: Any) -> Rollout:
    meta = needed(output, "meta_info", "invalid_type")
    tuples = needed(meta, "output_token_logprobs", "missing_logprobs", "ask for return_logprob=True")
    logprobs = [entry[0] for entry in tuples]
    tokens = [entry[1] for entry in tuples]
    stated = output.get("output_ids")
    if stated is not None and list(stated) != tokens:
        raise ConversionError("contradictory_exchange", "output_ids differ from the ids of output_token_logprobs")
    prompt = _prompt(output, meta) if prompt is None else plain_list(prompt, "input_ids")
    counted = meta.get("prompt_tokens")
    if counted is not None and counted != len(prompt):
        detail = f"the engine counted {counted} tokens in the prompt, input_ids has {len(prompt)}"
        raise ConversionError("contradictory_exchange", detail)
    reason = meta.get("finish_reason")
    version = meta.get("weight_version")
    spans = meta.get("weight_versions")
    return Rollout(
        prompt_token_ids=prompt,
        completion_token_ids=tokens,
        logprobs=logprobs,
        id=meta.get("id"),
        finish_reason=reason.get("type") if isinstance(reason, Mapping) else reason,
        cached_tokens=meta.get("cached_tokens"),
        # "default" is how SGLang calls weights that nobody has named.
        policy_version=str(version) if version is not None and version != "default" else None,
        weight_versions=spans if spans and not any(span.get("version") == "default" for span in spans) else None,
    )


def _prompt(output: Any, meta: Any) -> list[Any]:
    stated = output.get("prompt_token_ids") or meta.get("prompt_token_ids")
    if stated is not None:
        return plain_list(stated, "prompt_token_ids")
    inputs = meta.get("input_token_logprobs")
    if inputs and len(inputs) == meta.get("prompt_tokens"):
        return [entry[1] for entry in inputs]
    raise ConversionError("missing_token_ids", "pass input_ids, or ask the engine for return_prompt_token_ids")
