"""What a client is told once. A client pickles to this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional
from urllib.parse import urlsplit

DROPS = ("oldest", "newest")
MODES = (None, "raw", "temperature", "processed", "raw_logprobs", "processed_logprobs")


@dataclass(frozen=True)
class Config:
    """Checked when it is made: a typing mistake shows at the start, not as silence in production."""

    url: str
    run: str
    engine: str
    worker: Optional[str]
    api_key: Optional[str] = field(repr=False)
    api_key_file: Optional[str]
    ca_file: Optional[str]
    headers: Mapping[str, str] = field(repr=False)
    sampling: Optional[Mapping[str, Any]]
    logprobs_mode: Optional[str]
    sample_rate: float
    drop: str
    max_queue_sequences: int
    max_queue_bytes: int
    batch_sequences: int
    batch_bytes: int
    linger: float
    compress: bool
    respond_async: Optional[bool]
    connect_timeout: float
    timeout: float
    retry_seconds: float
    max_backoff: float
    exit_timeout: float
    gil_share: float

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot work."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url must be http://HOST[:PORT] or https://HOST[:PORT]")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url must not hold credentials; use api_key or api_key_file")
        if parts.query or parts.fragment:
            raise ValueError("url must not have a query or a fragment")
        _ = parts.port  # raises ValueError for one that is none
        for name in ("run", "engine"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name} must be a string that is not empty")
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("api_key and api_key_file exclude each other")
        if self.api_key is not None and not (self.api_key and self.api_key.isascii() and self.api_key.isprintable()):
            raise ValueError("api_key must be printable ASCII")  # and is not shown
        if self.ca_file is not None and parts.scheme != "https":
            raise ValueError("ca_file needs an https url")
        if self.drop not in DROPS:
            raise ValueError(f"drop must be one of {DROPS}")
        if self.logprobs_mode not in MODES:
            raise ValueError(f"logprobs_mode must be one of {MODES}")
        if not 0 < self.sample_rate <= 1:
            raise ValueError("sample_rate must be above 0 and at most 1")
        if not 0 < self.gil_share <= 1:
            raise ValueError("gil_share must be above 0 and at most 1")
        positive = ("max_queue_sequences", "max_queue_bytes", "batch_sequences", "batch_bytes", "connect_timeout")
        for name in (*positive, "timeout", "retry_seconds", "max_backoff"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("linger", "exit_timeout"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more")

    def key(self) -> Optional[str]:
        """The API key; a file is read anew each time, so that keys can be changed while a run goes on."""
        if self.api_key_file is None:
            return self.api_key
        key = Path(self.api_key_file).read_text(encoding="utf-8").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError(f"{self.api_key_file} does not hold an API key in printable ASCII")
        return key
