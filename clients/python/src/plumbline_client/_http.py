"""One kept-alive connection, on the standard library."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import socket
import ssl
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Optional
from urllib.parse import urlsplit

from ._config import Config
from ._version import __version__
from .errors import ApiError, ConnectionFailed, FieldError, class_of

MAX_RETRY_AFTER = 3600.0


@dataclass(frozen=True)
class Response:
    """Status, headers with lower-case names, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; ValueError if it is none."""
        return json.loads(self.body)

    def retry_after(self) -> Optional[float]:
        """Seconds of `Retry-After`, given as a number or a date."""
        value = self.headers.get("retry-after")
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (TypeError, ValueError):
                return None
        if not seconds >= 0:  # NaN, and dates that have passed
            return 0.0
        return min(seconds, MAX_RETRY_AFTER)

    def error(self) -> ApiError:
        """The typed error of a status that is no success."""
        try:
            document = self.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            document = {}
        errors = document.get("errors")
        fields = tuple(
            FieldError(str(entry.get("pointer", "")), str(entry.get("detail", "")), str(entry.get("code", "")))
            for entry in (errors if isinstance(errors, list) else ())
            if isinstance(entry, dict)
        )
        request_id = document.get("request_id")
        return class_of(self.status)(
            self.status,
            str(document.get("code") or f"http_{self.status}"),
            # `message` is how SGLang's bodies say it.
            str(
                document.get("detail")
                or document.get("message")
                or document.get("title")
                or http.client.responses.get(self.status, "no reason")
            ),
            fields,
            str(request_id) if request_id is not None else None,
            self.retry_after(),
        )


class Connection:
    """Used by one thread at a time. Reconnects by itself; everything sent here may be sent twice."""

    def __init__(self, config: Config) -> None:
        """Does not connect yet."""
        parts = urlsplit(config.url)
        self._config = config
        self._host = parts.hostname or ""
        self._port = parts.port
        self._base = parts.path.rstrip("/")
        self._tls = parts.scheme == "https"
        self._open: Optional[http.client.HTTPConnection] = None
        self._aborted = False

    def request(
        self,
        method: str,
        path: str,
        body: Optional[bytes] = None,
        headers: Optional[Mapping[str, str]] = None,
        timeout: Optional[float] = None,
    ) -> Response:
        """One request and its answer. Raises ConnectionFailed if there is none."""
        timeout = self._config.timeout if timeout is None else timeout
        all_headers = {"User-Agent": f"plumbline-client/{__version__}", "Accept": "application/json"}
        all_headers.update(self._config.headers)
        try:
            key = self._config.key()
        except (OSError, ValueError) as error:
            raise ConnectionFailed("api_key", str(error)) from error
        if key is not None:
            all_headers["Authorization"] = f"Bearer {key}"
        all_headers.update(headers or {})
        while True:
            reused = self._open is not None
            try:
                return self._exchange(method, self._base + path, body, all_headers, timeout)
            except (http.client.HTTPException, OSError, ValueError) as error:
                self.close()
                # The server may have closed an idle connection at the very moment: that is not an outage.
                if reused and not self._aborted and not isinstance(error, socket.timeout):
                    continue
                raise _failure(error) from error
            except BaseException:
                self.close()
                raise

    def _exchange(self, method: str, path: str, body: Optional[bytes], headers: Mapping[str, str], timeout: float) -> Response:
        connection = self._open
        if connection is None:
            connection = self._connect()
            self._open = connection
        # After the connection is where `abort` finds it, so that one of the two sees the other.
        if self._aborted:
            raise ConnectionAbortedError("the client was closed")
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        try:
            connection.request(method, path, body=body, headers=dict(headers))
        except (BrokenPipeError, ConnectionResetError) as error:
            # A server that will not read all of a body may have answered why.
            try:
                answer = connection.getresponse()
            except (http.client.HTTPException, OSError):
                raise error from None
        else:
            answer = connection.getresponse()
        content = answer.read()
        response = Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)
        if answer.will_close:
            self.close()
        return response

    def _connect(self) -> http.client.HTTPConnection:
        timeout = self._config.connect_timeout
        if self._tls:
            context = ssl.create_default_context(cafile=self._config.ca_file)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        connection.connect()
        return connection

    def close(self) -> None:
        """Closes what is open; the next request connects anew."""
        connection, self._open = self._open, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()

    def abort(self) -> None:
        """From another thread, for good: makes a request that is under way, or begins, fail."""
        self._aborted = True
        sock = getattr(self._open, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _failure(error: BaseException) -> ConnectionFailed:
    detail = f"{type(error).__name__}: {error}"[:300]
    if isinstance(error, socket.timeout):
        return ConnectionFailed("timeout", detail)
    if isinstance(error, ssl.SSLError):
        return ConnectionFailed("tls", detail)
    return ConnectionFailed("unreachable", detail)


def gzipped(parts: Iterable[bytes]) -> bytes:
    """One gzip member. zlib gives the GIL back while it works."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    out = [compressor.compress(part) for part in parts]
    out.append(compressor.flush())
    return b"".join(out)
