"""Answers of the server, typed. `raw` of each is the JSON it was read from, for fields of newer servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

Numbers = list[Optional[float]]


@dataclass(frozen=True)
class Reference:
    """The resident model that scored."""

    model: str
    policy_version: Optional[str]
    dtype: str
    head_dtype: str
    device: str


@dataclass(frozen=True)
class TokenNumbers:
    """One value for each completion token; None where there is none."""

    reference_logprobs: Numbers
    log_ratio: Numbers
    """Reference minus engine, in nats."""
    entropy: Numbers
    rank: list[Optional[int]]


@dataclass(frozen=True)
class ImportanceWeights:
    """exp of the log ratio: of each token, of the sum, of the mean."""

    token: Numbers
    sequence: Optional[float]
    geometric: Optional[float]


@dataclass(frozen=True)
class Finding:
    """A cause that would explain a divergence."""

    cause: str
    explained: Optional[float]
    evidence: str


@dataclass(frozen=True)
class SequenceResult:
    """Result of one sequence."""

    id: str
    verdict: str
    """`consistent`, `suspect`, `divergent` or `insufficient`."""
    verdict_reason: str
    metrics: Mapping[str, Optional[float]]
    skipped: Mapping[str, int]
    logprobs_mode: str
    policy_version: Optional[str]
    tokens: Optional[TokenNumbers] = None
    """With `include=["tokens"]`."""
    importance_weights: Optional[ImportanceWeights] = None
    """With `include=["importance_weights"]`."""
    diagnosis: Optional[list[Finding]] = None
    """With `include=["diagnosis"]`: likeliest first."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Verification:
    """Result of a request. Metrics have the names of the HTTP API: `mae_logprob`, `kl_k3`, `ess`, ..."""

    id: str
    run: str
    engine: str
    reference: Reference
    metrics: Mapping[str, Optional[float]]
    skipped: Mapping[str, int]
    sequences: list[SequenceResult]
    already_counted: list[int]
    stored: bool
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class VerificationState:
    """An accepted verification and how far it is: `queued`, `running`, `done` or `failed`."""

    id: str
    state: str
    result: Optional[Verification]
    """Of one that is done; None also where retention has removed it."""
    problem: Optional[Mapping[str, Any]]
    """Of one that failed: an RFC 9457 document."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def read_verification(document: Mapping[str, Any]) -> Verification:
    """From the server's JSON; KeyError or TypeError if it is none of this API."""
    reference = document["reference"]
    return Verification(
        id=document["id"],
        run=document["run"],
        engine=document["engine"],
        reference=Reference(**{key: reference[key] for key in Reference.__dataclass_fields__}),
        metrics=document["metrics"],
        skipped=document["skipped"],
        sequences=[_sequence(sequence) for sequence in document["sequences"]],
        already_counted=list(document.get("already_counted", [])),
        stored=bool(document.get("stored", False)),
        raw=document,
    )


def _sequence(document: Mapping[str, Any]) -> SequenceResult:
    tokens, weights, findings = (document.get(key) for key in ("tokens", "importance_weights", "diagnosis"))
    return SequenceResult(
        id=document["id"],
        verdict=document["verdict"],
        verdict_reason=document["verdict_reason"],
        metrics=document["metrics"],
        skipped=document["skipped"],
        logprobs_mode=document["logprobs_mode"],
        policy_version=document["policy_version"],
        tokens=None if tokens is None else TokenNumbers(**_fields(TokenNumbers, tokens)),
        importance_weights=None if weights is None else ImportanceWeights(**_fields(ImportanceWeights, weights)),
        diagnosis=None if findings is None else [Finding(**_fields(Finding, finding)) for finding in findings],
        raw=document,
    )


def _fields(cls: type, document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in cls.__dataclass_fields__}  # type: ignore[attr-defined]


def read_state(document: Mapping[str, Any]) -> VerificationState:
    """From the server's JSON."""
    result = document.get("result")
    return VerificationState(
        id=document["id"],
        state=document["state"],
        result=None if result is None else read_verification(result),
        problem=document.get("problem"),
        raw=document,
    )
