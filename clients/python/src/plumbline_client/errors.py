"""What the calls that wait for an answer raise. `Client.submit` and its kin raise none of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional


class PlumblineError(Exception):
    """Base of everything that this package raises on purpose."""


class ConversionError(PlumblineError):
    """An engine's output cannot be read as a rollout; nothing is repaired or cut.

    `reason` is the stable name under which `Client.stats()` counts it.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """`reason` is a short stable name, `detail` is for people."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ConnectionFailed(PlumblineError):  # noqa: N818 (named for what happened)
    """No answer: refused, reset, timed out, no name, bad certificate. `kind` is `unreachable`, `timeout` or `tls`."""

    def __init__(self, kind: str, detail: str) -> None:
        """`kind` is a short stable name, `detail` is for people."""
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class FieldError:
    """One offending field of a request."""

    pointer: str
    """JSON pointer into the body that was sent."""
    detail: str
    code: str


class ApiError(PlumblineError):
    """The server answered with a problem (RFC 9457)."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: tuple[FieldError, ...] = (),
        request_id: Optional[str] = None,
        retry_after: Optional[float] = None,
    ) -> None:
        """As the server's document has it; `code` is stable, `retry_after` is in seconds."""
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.request_id = request_id
        self.retry_after = retry_after


class InvalidRequest(ApiError):  # noqa: N818
    """400, 413, 415, 422: the request will never be taken as it is; `errors` points at the fields."""


class NotAllowed(ApiError):  # noqa: N818
    """401, 403: no API key, or one without the role."""


class NotFound(ApiError):  # noqa: N818
    """404: no such route, run, sequence or verification."""


class VersionUnavailable(ApiError):  # noqa: N818
    """409: the policy version is not resident."""


class Overloaded(ApiError):  # noqa: N818
    """429: the queue is full; `retry_after` says when there is room."""


class Unavailable(ApiError):  # noqa: N818
    """503: loading, shutting down, or the store is in trouble."""


class DeadlineExceeded(ApiError):  # noqa: N818
    """504: the time that the request had is over."""


class ServerFailed(ApiError):  # noqa: N818
    """500 and whatever else is no answer of the API."""


class VerificationFailed(PlumblineError):  # noqa: N818
    """An accepted verification failed; `problem` is the server's document."""

    def __init__(self, verification_id: str, problem: Mapping[str, Any]) -> None:
        """`problem` is an RFC 9457 document."""
        super().__init__(f"verification {verification_id} failed: {problem.get('detail') or problem.get('code')}")
        self.verification_id = verification_id
        self.problem = problem


class WeightUpdateRefused(PlumblineError):  # noqa: N818
    """The server keeps its earlier weights; the message says why."""


_CLASSES: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: VersionUnavailable,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: Overloaded,
    503: Unavailable,
    504: DeadlineExceeded,
}


def class_of(status: int) -> type[ApiError]:
    """The error class of an HTTP status."""
    return _CLASSES.get(status, ServerFailed)
