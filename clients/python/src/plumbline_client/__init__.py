"""Plumbline's client: sends what an inference engine sampled to be re-scored, without the rollout loop noticing.

from plumbline_client import Client
plumbline = Client("http://plumbline:8080", run="grpo-math", engine="vllm")
plumbline.submit_vllm(outputs, policy_version=str(step))
"""

from ._version import __version__
from .adapters import from_sglang, from_slime, from_trl, from_verl, from_vllm
from .client import Client
from .errors import (
    ApiError,
    ConnectionFailed,
    ConversionError,
    DeadlineExceeded,
    FieldError,
    InvalidRequest,
    NotAllowed,
    NotFound,
    Overloaded,
    PlumblineError,
    ServerFailed,
    Unavailable,
    VerificationFailed,
    VersionUnavailable,
    WeightUpdateRefused,
)
from .results import (
    Finding,
    ImportanceWeights,
    Reference,
    SequenceResult,
    TokenNumbers,
    Verification,
    VerificationState,
)
from .rollout import Exchange, Rejected, Rollout
from .stats import Stats

__all__ = [
    "ApiError",
    "Client",
    "ConnectionFailed",
    "ConversionError",
    "DeadlineExceeded",
    "Exchange",
    "FieldError",
    "Finding",
    "ImportanceWeights",
    "InvalidRequest",
    "NotAllowed",
    "NotFound",
    "Overloaded",
    "PlumblineError",
    "Reference",
    "Rejected",
    "Rollout",
    "SequenceResult",
    "ServerFailed",
    "Stats",
    "TokenNumbers",
    "Unavailable",
    "Verification",
    "VerificationFailed",
    "VerificationState",
    "VersionUnavailable",
    "WeightUpdateRefused",
    "__version__",
    "from_sglang",
    "from_slime",
    "from_trl",
    "from_verl",
    "from_vllm",
]
