"""Calls that wait for their answer and raise typed errors. They have connections of their own and share no lock with `submit`."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Optional
from urllib.parse import quote

from ._config import Config
from ._delivery import PATH
from ._encode import Encoded, dumps, encode, envelope
from ._http import Connection, Response, gzipped
from .errors import (
    ApiError,
    ConnectionFailed,
    ConversionError,
    PlumblineError,
    VerificationFailed,
    WeightUpdateRefused,
)
from .results import Verification, VerificationState, read_state, read_verification
from .rollout import Item, Rejected

_AGAIN = frozenset({429, 502, 503})


class Api:
    """One server, any number of threads."""

    def __init__(self, config: Config) -> None:
        """Does not connect yet."""
        self._config = config
        self._idle: list[Connection] = []
        self._lock = threading.Lock()

    def call(
        self,
        method: str,
        path: str,
        body: Optional[bytes] = None,
        headers: Optional[Mapping[str, str]] = None,
        timeout: Optional[float] = None,
    ) -> Response:
        """One request; overload and restarts are waited out, as told by Retry-After, within `timeout` seconds."""
        timeout = self._config.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        wait = 0.2
        while True:
            error: PlumblineError
            left = max(0.05, deadline - time.monotonic())
            try:
                response = self._once(method, path, body, headers, left)
                if response.status < 400:
                    return response
                error = response.error()
                if response.status not in _AGAIN:
                    raise error
                pause = error.retry_after if error.retry_after is not None else wait
            except ConnectionFailed as failure:
                error, pause = failure, wait
            wait = min(wait * 2, 5.0)
            if time.monotonic() + pause >= deadline:
                raise error
            time.sleep(pause)

    def _once(self, method: str, path: str, body: Optional[bytes], headers: Optional[Mapping[str, str]], timeout: float) -> Response:
        with self._lock:
            connection = self._idle.pop() if self._idle else Connection(self._config)
        response = connection.request(method, path, body, headers, timeout)
        with self._lock:
            self._idle.append(connection)
        return response

    def close(self) -> None:
        """Closes idle connections; later calls open new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __del__(self) -> None:
        """A client that was forgotten leaves no socket open."""
        for connection in self._idle:
            connection.close()

    def post(self, head: str, include: Iterable[str], items: Iterable[Item], later: bool, timeout: float) -> Response:
        """POST /v1/verifications. Sent under one key, so that a retry counts once."""
        key = uuid.uuid4().hex
        encoded = [_encoded(item, f"{key[:12]}-{number}", self._config) for number, item in enumerate(items)]
        kinds = {one.kind for one in encoded}
        if len(kinds) > 1:
            raise ConversionError("invalid_type", "a request has either sequences or exchanges")
        kind = kinds.pop() if kinds else "sequences"
        start = f'{head},"include":{dumps(list(include))},"{kind}":['
        body = start.encode("ascii") + b",".join(one.json for one in encoded) + b"]}"
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._config.compress:
            body = gzipped([body])
            headers["Content-Encoding"] = "gzip"
        if later:
            headers["Prefer"] = "respond-async"
        return self.call("POST", PATH, body, headers, timeout)

    def state(self, verification_id: str, timeout: Optional[float] = None) -> VerificationState:
        """GET /v1/verifications/{id}."""
        response = self.call("GET", f"{PATH}/{quote(verification_id, safe='')}", timeout=timeout)
        return read_state(document(response))

    def wait(self, verification_id: str, timeout: float) -> Verification:
        """Polls until it is done."""
        deadline = time.monotonic() + timeout
        while True:
            state = self.state(verification_id, max(0.05, deadline - time.monotonic()))
            if state.state == "failed":
                raise VerificationFailed(verification_id, state.problem or {})
            if state.result is not None:
                return state.result
            if state.state == "done":
                raise VerificationFailed(verification_id, {"detail": "the result is no longer kept"})
            if time.monotonic() + 0.25 >= deadline:
                raise ConnectionFailed("timeout", f"verification {verification_id} is still {state.state}")
            time.sleep(0.25)

    def update_weights(self, path: str, version: Optional[str], timeout: float) -> str:
        """POST /update_weights_from_disk; the server's message."""
        body = {"model_path": path, "weight_version": version}
        json_body = dumps({key: value for key, value in body.items() if value is not None}).encode("ascii")
        headers = {"Content-Type": "application/json"}
        try:
            response = self.call("POST", "/update_weights_from_disk", json_body, headers, timeout)
        except ApiError as error:
            if error.status == 400:
                raise WeightUpdateRefused(error.detail) from error
            raise
        return str(document(response).get("message", ""))


def _encoded(item: Item, name: str, config: Config) -> Encoded:
    if isinstance(item, Rejected):
        raise ConversionError(item.reason, item.detail)
    return encode(item, name, config)


def document(response: Response) -> dict[str, Any]:
    """The answer's JSON object; anything else is no Plumbline."""
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConnectionFailed("unreachable", f"the answer ({response.status}) is no JSON object: no Plumbline there?")
    return found


def read_result(response: Response) -> Verification:
    """The answer as a verification."""
    found = document(response)
    try:
        return read_verification(found)
    except (KeyError, TypeError) as error:
        raise ConnectionFailed("unreachable", f"the answer is no verification: {error!r}") from error


__all__ = ["Api", "document", "envelope", "read_result"]
