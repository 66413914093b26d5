"""What is sent: rollouts, engines' own bodies, and what could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

Tokens = Any
"""Token ids: a list or tuple of ints, or anything with `tolist()` (torch, numpy, array), one-dimensional."""

Numbers = Any
"""One number per completion token, `None` and NaN included: a list or tuple, or anything with `tolist()`."""

Sampling = Union[Mapping[str, Any], object]
"""Sampling parameters by Plumbline's names: a mapping, or an object with these attributes (vLLM's `SamplingParams`)."""


@dataclass
class Rollout:
    """One sampled sequence with the engine's logprob of each completion token, in nats.

    Lists are not copied: do not change them after handing them to `Client.submit`.
    """

    prompt_token_ids: Tokens
    """Ids that the engine was given, special tokens included, padding excluded."""
    completion_token_ids: Tokens
    """Ids that the engine sampled (and, masked, what tools put between them)."""
    logprobs: Numbers
    """The engine's number for each completion token."""
    id: Optional[str] = None
    """Your name for it. Missing: one that no other sequence of this client has."""
    loss_mask: Optional[Numbers] = None
    """0 = shown, but in no sum (tool tokens). Missing: all tokens count."""
    finish_reason: Optional[str] = None
    cached_tokens: Optional[int] = None
    """Tokens of the prompt that the engine took from its prefix cache."""
    sampling: Optional[Sampling] = None
    """How this sequence was sampled. Missing: the client's `sampling`."""
    policy_version: Optional[str] = None
    """Version of the weights that sampled it. Missing: the server's current one."""
    weight_versions: Optional[Sequence[Mapping[str, Any]]] = None
    """Spans `{"version", "start", "end"}` where the weights changed within the sequence."""
    logprobs_mode: Optional[str] = None
    """What the numbers mean: `raw`, `temperature` or `processed`. Missing: the client's `logprobs_mode`."""


@dataclass
class Exchange:
    """What was sent to an engine over HTTP and what it answered, both unchanged; the server reads ids and numbers."""

    response: Any
    """The body received: parsed JSON, or text (also of a stream)."""
    request: Optional[Mapping[str, Any]] = None
    """The body sent."""
    id: Optional[str] = None
    path: Optional[str] = None
    """The engine's route, `/v1/completions`."""
    engine: Optional[str] = None
    sampling: Optional[Sampling] = None
    policy_version: Optional[str] = None
    logprobs_mode: Optional[str] = None


@dataclass(frozen=True)
class Rejected:
    """A rollout that could not be read. Submitting one counts it as dropped, with its reason."""

    reason: str
    detail: str


Item = Union[Rollout, Exchange, Rejected, Mapping[str, Any]]
"""What can be submitted. A mapping is a sequence as the HTTP API has it, or with `response` an exchange."""
