"""The client: `submit` for rollout loops, `verify` and its kin for scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from types import TracebackType
from typing import Any, Optional, Union
from urllib.parse import quote

from . import _lifecycle
from ._api import Api, document, envelope, read_result
from ._config import Config
from ._encode import rough_size, sampling_of
from ._worker import Worker
from .adapters.sglang import iter_sglang, measure_sglang
from .adapters.slime import iter_slime, measure_slime
from .adapters.trl import iter_trl, measure_trl
from .adapters.verl import iter_verl, measure_verl
from .adapters.vllm import iter_vllm, measure_vllm
from .results import Verification, VerificationState
from .rollout import Exchange, Item, Rejected, Rollout, Sampling
from .stats import Stats

LOT = 64
"""Items that are queued, and dropped, as one."""


class Client:
    """Sends rollouts to Plumbline from a background thread.

    `submit` and the other `submit_*` never raise and never wait for the network: they put references into a bounded queue. What the
    queue has no room for is dropped and counted. Everything else (`verify`, `wait`, `update_weights`, ...) waits for its answer and
    raises `PlumblineError`.

    A client may be used by any number of threads. It pickles to its configuration, API key included; after a fork the child starts
    with an empty queue and counters at zero, and what the parent had queued stays the parent's.
    """

    def __init__(
        self,
        url: str,
        *,
        run: str,
        engine: str = "vllm",
        worker: Optional[str] = None,
        api_key: Optional[str] = None,
        api_key_file: Optional[str] = None,
        ca_file: Optional[str] = None,
        headers: Optional[Mapping[str, str]] = None,
        sampling: Optional[Sampling] = None,
        logprobs_mode: Optional[str] = None,
        sample_rate: float = 1.0,
        drop: str = "oldest",
        max_queue_sequences: int = 16_384,
        max_queue_bytes: int = 256 << 20,
        batch_sequences: int = 64,
        batch_bytes: int = 4 << 20,
        linger: float = 0.2,
        compress: bool = True,
        respond_async: Optional[bool] = None,
        connect_timeout: float = 5.0,
        timeout: float = 120.0,
        retry_seconds: float = 600.0,
        max_backoff: float = 30.0,
        exit_timeout: float = 5.0,
        gil_share: float = 0.005,
    ) -> None:
        """Connects to nothing yet. Raises ValueError for what cannot work.

        url: `http://HOST:PORT`, or `https://`, with `ca_file` if the certificate's authority is not one of the system's.
        run, engine, worker: labels; the engine's name also says what its logprobs mean (`vllm`: raw, `sglang`: after temperature).
        api_key, api_key_file: a key with the role `ingest` (`admin` for `update_weights`). The file is read for every request.
        headers: further ones, for proxies.
        sampling, logprobs_mode: of all rollouts that do not say otherwise.
        sample_rate: part of the sequences that is sent, chosen by a hash of their ids.
        drop: what goes when the queue is full, `oldest` (queued longest) or `newest` (what is being submitted).
        max_queue_sequences, max_queue_bytes: of the queue; bytes are those of the JSON, memory is about twice as much.
        batch_sequences, batch_bytes, linger: a request goes out when it has so many sequences or bytes, or after so many seconds.
        respond_async: True: accepted when it is on the server's disk, which needs its `--data-dir`; False: when it is scored; None: the
            former if the server can, else the latter.
        connect_timeout, timeout: seconds for a connection, and for the server to go on answering.
        retry_seconds: how long the same sequences are sent again before they are dropped.
        max_backoff: longest wait between tries in seconds where the server does not say how long.
        exit_timeout: seconds at most that the end of the process is held up to send what is queued.
        gil_share: part of the time for which the background thread may hold the GIL while other threads compute.
        """
        plain = sampling_of(sampling)
        self._config = Config(
            url=url,
            run=run,
            engine=engine,
            worker=worker,
            api_key=api_key,
            api_key_file=api_key_file,
            ca_file=ca_file,
            headers=dict(headers or {}),
            sampling=plain,
            logprobs_mode=logprobs_mode,
            sample_rate=sample_rate,
            drop=drop,
            max_queue_sequences=max_queue_sequences,
            max_queue_bytes=max_queue_bytes,
            batch_sequences=batch_sequences,
            batch_bytes=batch_bytes,
            linger=linger,
            compress=compress,
            respond_async=respond_async,
            connect_timeout=connect_timeout,
            timeout=timeout,
            retry_seconds=retry_seconds,
            max_backoff=max_backoff,
            exit_timeout=exit_timeout,
            gil_share=gil_share,
        )
        self._begin()

    def _begin(self) -> None:
        self._api = Api(self._config)
        self._worker = Worker(self._config)
        _lifecycle.register(self, self._worker)

    # Rollout loops: never raises, never waits.

    def submit(
        self,
        items: Union[Item, Iterable[Item]],
        *,
        policy_version: Optional[str] = None,
        run: Optional[str] = None,
        engine: Optional[str] = None,
        worker: Optional[str] = None,
    ) -> bool:
        """Queues one rollout or many; False if something was dropped, which `stats()` explains.

        Items are `Rollout`, `Exchange`, or dicts as the HTTP API has them. Their lists are not copied and are encoded later: do not
        change them. `policy_version` is for items that name none; `run`, `engine` and `worker` replace the client's.
        """
        try:
            single = isinstance(items, (Rollout, Exchange, Rejected, Mapping))
            every: list[Any] = [items] if single else list(items)  # type: ignore[arg-type]
            head = self._head(run, engine, worker)
            whole = True
            for start in range(0, len(every), LOT):
                lot = every[start : start + LOT] if len(every) > LOT else every
                size = sum(map(rough_size, lot))
                made = lot if policy_version is None else _versioned(lot, policy_version)
                whole = self._worker.put(head, made, len(lot), size) and whole
        except Exception as error:  # noqa: BLE001 (a monitor must not end a run; it is counted and logged)
            return self._refused(error)
        return whole

    def submit_exchange(
        self,
        response: Any,
        request: Optional[Mapping[str, Any]] = None,
        *,
        path: Optional[str] = None,
        id: Optional[str] = None,
        policy_version: Optional[str] = None,
        sampling: Optional[Sampling] = None,
        logprobs_mode: Optional[str] = None,
    ) -> bool:
        """An engine's answer and the body that was sent to it, unchanged; the server reads ids and logprobs (vLLM, SGLang, ...)."""
        return self.submit(
            Exchange(
                response,
                request,
                id=id,
                path=path,
                policy_version=policy_version,
                sampling=sampling,
                logprobs_mode=logprobs_mode,
            )
        )

    def submit_vllm(self, outputs: Any, **options: Any) -> bool:
        """`RequestOutput` of vLLM, one or many; options as of `from_vllm`."""
        return self._lazily(measure_vllm, partial(iter_vllm, outputs, **options), outputs)

    def submit_sglang(self, outputs: Any, input_ids: Any = None, **options: Any) -> bool:
        """Outputs of SGLang's `Engine.generate`; options as of `from_sglang`."""
        return self._lazily(measure_sglang, partial(iter_sglang, outputs, input_ids, **options), outputs)

    def submit_verl(self, data: Any, **options: Any) -> bool:
        """verl's `DataProto`; options as of `from_verl`."""
        return self._lazily(measure_verl, partial(iter_verl, data, **options), data)

    def submit_trl(self, batch: Any, **options: Any) -> bool:
        """TRL's batch; options as of `from_trl`."""
        return self._lazily(measure_trl, partial(iter_trl, batch, **options), batch)

    def submit_slime(self, samples: Any, **options: Any) -> bool:
        """slime's samples or groups of them; options as of `from_slime`."""
        return self._lazily(measure_slime, partial(iter_slime, samples, **options), samples)

    def _lazily(self, measure: Callable[[Any], tuple[int, int]], make: Callable[[], Iterator[Any]], source: Any) -> bool:
        """Counts now, converts in the background."""
        try:
            count, size = measure(source)
            return self._worker.put(self._head(), _made(make), count, size)
        except Exception as error:  # noqa: BLE001 (objects of many versions of many engines)
            return self._refused(error)

    def _head(self, run: Optional[str] = None, engine: Optional[str] = None, worker: Optional[str] = None) -> str:
        config = self._config
        return envelope(run or config.run, engine or config.engine, worker or config.worker)

    def _refused(self, error: Exception) -> bool:
        """Something that was handed over is nothing that can be sent: one dropped sequence."""
        detail = f"{type(error).__name__}: {error}"[:300]
        return self._worker.put(self._head(), [Rejected("invalid_type", detail)], 1, 0)

    def stats(self) -> Stats:
        """The counters at this instant."""
        return self._worker.counters.snapshot()

    def flush(self, timeout: Optional[float] = 10.0) -> bool:
        """Waits until everything submitted so far is accepted or dropped; False if that took too long."""
        return self._worker.flush(timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Flushes for so long, drops the rest, ends the thread. Later submissions are dropped. May be called again."""
        done = self._worker.close(timeout)
        self._api.close()
        return done

    def __enter__(self) -> Client:
        """Closes at the end of the block."""
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Closes."""
        self.close()

    # Scripts, evaluation, trainers: waits, and raises PlumblineError.

    def verify(
        self,
        items: Union[Item, Iterable[Item]],
        *,
        include: Iterable[str] = (),
        policy_version: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> Verification:
        """Scores and compares now. `include`: `tokens`, `importance_weights`, `diagnosis`."""
        timeout = self._config.timeout if timeout is None else timeout
        return read_result(self._api.post(self._head(), include, _listed(items, policy_version), False, timeout))

    def verify_later(
        self,
        items: Union[Item, Iterable[Item]],
        *,
        include: Iterable[str] = (),
        policy_version: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> str:
        """Has them stored to be scored later, and gives the id for `wait`. Needs the server's `--data-dir`."""
        timeout = self._config.timeout if timeout is None else timeout
        response = self._api.post(self._head(), include, _listed(items, policy_version), True, timeout)
        return str(document(response)["id"])

    def wait(self, verification_id: str, timeout: float = 300.0) -> Verification:
        """The result of an accepted verification. Raises VerificationFailed if it failed."""
        return self._api.wait(verification_id, timeout)

    def result(self, verification_id: str) -> VerificationState:
        """How far a verification is, without waiting."""
        return self._api.state(verification_id)

    def update_weights(self, path: str, version: Optional[str] = None, *, timeout: float = 600.0) -> str:
        """Loads a checkpoint as the current version of the reference; needs a key with the role `admin`.

        `path` is as the server sees it, within its `--weights-root`; without `version` the number at its end counts (`step_42`).
        Returns when it is in use. Raises WeightUpdateRefused if the earlier one stays.
        """
        return self._api.update_weights(path, version, timeout)

    def get_weight_version(self) -> str:
        """Version that rollouts without one are scored with."""
        return str(document(self._api.call("GET", "/get_weight_version"))["weight_version"])

    def run_view(self, run: Optional[str] = None) -> dict[str, Any]:
        """The run's metrics for each engine, as JSON; for a tracker's log. Needs a key with the role `read`."""
        return document(self._api.call("GET", f"/v1/runs/{quote(run or self._config.run, safe='')}"))

    # What becomes of it.

    def __getstate__(self) -> dict[str, Any]:
        """The configuration: a Ray actor gets a client of its own."""
        return asdict(self._config)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A new client: empty queue, counters at zero."""
        self._config = Config(**state)
        self._begin()

    def __repr__(self) -> str:
        """Without keys."""
        config = self._config
        return f"Client({config.url!r}, run={config.run!r}, engine={config.engine!r}, worker={config.worker!r})"

    def _after_fork(self) -> None:
        # Locks may be held by threads that this process does not have: nothing of the parent's is touched.
        self._begin()


def _listed(items: Union[Item, Iterable[Item]], policy_version: Optional[str]) -> Iterable[Item]:
    single = isinstance(items, (Rollout, Exchange, Rejected, Mapping))
    every: list[Any] = [items] if single else list(items)  # type: ignore[arg-type]
    return every if policy_version is None else _versioned(every, policy_version)


def _versioned(items: list[Any], version: str) -> Iterator[Item]:
    """The items, with a version where they name none."""
    for item in items:
        if isinstance(item, Mapping):
            yield {"policy_version": version, **item}
        elif isinstance(item, (Rollout, Exchange)) and item.policy_version is None:
            spans = getattr(item, "weight_versions", None)
            yield item if spans else replace(item, policy_version=version)
        else:
            yield item


def _made(make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """A generator: nothing is converted before the background thread asks for it."""
    yield from make()
