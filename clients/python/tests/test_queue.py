"""The bounded queue, its thread, and what happens around the life of a process."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import plumbline_client
from plumbline_client import Client, Rejected, Rollout, _lifecycle, _log, _worker
from support import ACCEPTED, Answer, Scripted, Seen, balanced, free_port, problem, rollout, until


def client(url: str, **options: Any) -> Client:
    return Client(url, **{"run": "queue", "linger": 0.0, "gil_share": 1.0, **options})


class Held:
    """A server that keeps its first answer back until told."""

    def __init__(self, scripted: Scripted) -> None:
        self.release = threading.Event()
        self.reached = threading.Event()
        scripted.answer = self.answer

    def answer(self, seen: Seen) -> Answer:
        self.reached.set()
        self.release.wait(60)
        return ACCEPTED


@pytest.mark.parametrize(("drop", "kept"), [("oldest", ["s7", "s8", "s9"]), ("newest", ["s0", "s1", "s2"])])
def test_a_full_queue_drops_as_told(scripted: Scripted, drop: str, kept: list[str]) -> None:
    held = Held(scripted)
    with client(scripted.url, max_queue_sequences=3, drop=drop) as plumbline:
        plumbline.submit(rollout(id="first"))
        assert held.reached.wait(60)
        results = [plumbline.submit(rollout(id=f"s{number}")) for number in range(10)]
        assert plumbline.stats().dropped == {"queue_full": 7}
        assert results == [True] * 3 + [False] * 7
        held.release.set()
        assert plumbline.flush(60)
        assert plumbline.stats().accepted == 4
    assert [identity for seen in scripted.seen for identity in seen.ids] == ["first", *kept]


def test_the_queue_is_bounded_in_bytes(scripted: Scripted) -> None:
    held = Held(scripted)
    with client(scripted.url, max_queue_bytes=100_000) as plumbline:
        plumbline.submit(rollout())
        assert held.reached.wait(60)
        for _ in range(50):
            plumbline.submit(rollout(1000))
        assert plumbline.stats().queued_bytes <= 101_000
        assert plumbline.stats().dropped["queue_full"] > 40
        # One that is larger than the queue pushes nothing else out.
        before = plumbline.stats().dropped_total
        assert not plumbline.submit(rollout(5000))
        assert plumbline.stats().dropped_total == before + 1
        held.release.set()
        assert plumbline.flush(60)
        assert plumbline.stats().queued_bytes == 0
        assert balanced(plumbline.stats())


def test_batches_are_bounded(scripted: Scripted) -> None:
    held = Held(scripted)
    with client(scripted.url, batch_sequences=10, batch_bytes=20_000, linger=60.0) as plumbline:
        plumbline.submit([rollout() for _ in range(10)])
        assert held.reached.wait(60)
        held.release.set()
        plumbline.submit([rollout() for _ in range(25)])
        plumbline.submit([rollout(300) for _ in range(8)])
        assert plumbline.flush(60)
    sizes = [len(seen.ids) for seen in scripted.seen]
    assert sum(sizes) == 43
    assert max(sizes) == 10
    assert all(len(str(seen.body)) < 30_000 for seen in scripted.seen)


def test_what_is_not_full_goes_after_a_while(scripted: Scripted) -> None:
    with client(scripted.url, linger=0.05) as plumbline:
        plumbline.submit(rollout())
        until(lambda: plumbline.stats().accepted == 1, "sent without a flush")


def test_many_threads_lose_nothing(scripted: Scripted) -> None:
    with client(scripted.url, max_queue_sequences=100_000) as plumbline:
        names = [[f"{thread}-{number}" for number in range(300)] for thread in range(8)]

        def produce(own: list[str]) -> None:
            for name in own:
                assert plumbline.submit(rollout(2, id=name))

        threads = [threading.Thread(target=produce, args=(own,)) for own in names]
        for thread in threads:
            thread.start()
        balances = [balanced(plumbline.stats()) for _ in range(200)]
        for thread in threads:
            thread.join()
        assert plumbline.flush(60)
        assert all(balances)
        assert plumbline.stats().accepted == 2400
    sent = Counter(identity for seen in scripted.seen for identity in seen.ids)
    assert sent == Counter(name for own in names for name in own)


def test_labels_and_versions(scripted: Scripted) -> None:
    with client(scripted.url, worker="w1") as plumbline:
        plumbline.submit([rollout(), rollout(policy_version="own")], policy_version="7")
        plumbline.submit({"prompt_token_ids": [1], "completion_token_ids": [2], "logprobs": [-1.0]}, policy_version="8")
        plumbline.submit(rollout(), run="other", engine="sglang", worker="w2")
        assert plumbline.flush(60)
    bodies = [seen.body for seen in scripted.seen]
    assert [(body["run"], body["engine"], body["worker"]) for body in bodies if body["run"] == "other"] == [("other", "sglang", "w2")]
    versions = [sequence.get("policy_version") for body in bodies for sequence in body["sequences"]]
    assert versions == ["7", "own", "8", None]


def test_settings_of_the_client_stand_in(scripted: Scripted) -> None:
    class SamplingParams:
        temperature, top_p, top_k, seed = 0.7, 0.9, -1, 5

    with client(scripted.url, sampling=SamplingParams(), logprobs_mode="processed_logprobs") as plumbline:
        plumbline.submit([rollout(), rollout(sampling={"temperature": 1.0}, logprobs_mode="raw")])
        assert plumbline.flush(60)
    first, second = scripted.seen[0].body["sequences"]
    assert (first["sampling"], first["logprobs_mode"]) == ({"temperature": 0.7, "top_p": 0.9, "top_k": -1}, "processed")
    assert (second["sampling"], second["logprobs_mode"]) == ({"temperature": 1.0}, "raw")


def test_a_sample_is_the_same_everywhere(scripted: Scripted) -> None:
    kept: list[set[str]] = []
    for _ in range(2):
        scripted.seen.clear()
        with client(scripted.url, sample_rate=0.25) as plumbline:
            plumbline.submit([rollout(2, id=f"s{number}") for number in range(400)])
            assert plumbline.flush(60)
            stats = plumbline.stats()
            assert stats.accepted + stats.dropped["sampled_out"] == 400
        kept.append({identity for seen in scripted.seen for identity in seen.ids})
    assert kept[0] == kept[1]
    assert 60 < len(kept[0]) < 140


def test_nothing_that_is_submitted_raises(scripted: Scripted) -> None:
    class Bomb:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("boom")

        def __len__(self) -> int:
            raise RuntimeError("boom")

        def __iter__(self) -> Iterator[Any]:
            raise RuntimeError("boom")

    def generator() -> Iterator[Any]:
        yield rollout()
        raise RuntimeError("boom")

    circular: list[Any] = []
    circular.append(circular)
    nothing: Any = None
    with client(scripted.url) as plumbline:
        assert not plumbline.submit(nothing) or plumbline.flush(60)
        for hostile in (5, "text", b"bytes", Bomb(), [Bomb()], generator(), [nothing], circular, Rollout(Bomb(), Bomb(), Bomb()), {1: 2}):
            plumbline.submit(hostile)  # type: ignore[arg-type]
        for submit in (plumbline.submit_vllm, plumbline.submit_sglang, plumbline.submit_verl, plumbline.submit_trl, plumbline.submit_slime):
            for hostile in (nothing, 5, "text", Bomb(), [Bomb()], {}, [{}]):
                submit(hostile)
            submit([], bogus_option=1)
        plumbline.submit_exchange(Bomb())
        plumbline.submit(Rejected("mine", "known to be bad"))
        plumbline.submit(rollout())
        assert plumbline.flush(60)
        stats = plumbline.stats()
        assert stats.accepted == 1, stats
        assert stats.dropped["mine"] == 1
        assert stats.dropped_total >= 30
        assert stats.queued == stats.queued_bytes == 0, stats


def test_an_empty_submission_is_nothing(scripted: Scripted) -> None:
    with client(scripted.url) as plumbline:
        assert plumbline.submit([])
        assert plumbline.stats().submitted == 0
        assert plumbline.flush(0.0)


def test_flush_waits_for_what_was_submitted_before_it_only(scripted: Scripted) -> None:
    stop = threading.Event()
    with client(scripted.url) as plumbline:

        def produce() -> None:
            while not stop.is_set():
                plumbline.submit([rollout(2) for _ in range(20)])
                stop.wait(0.001)

        thread = threading.Thread(target=produce)
        thread.start()
        try:
            for _ in range(5):
                before = plumbline.stats()
                assert plumbline.flush(60)
                after = plumbline.stats()
                assert after.accepted + after.dropped_total >= before.submitted
        finally:
            stop.set()
            thread.join()


def test_after_close_everything_is_dropped_and_nothing_raises(scripted: Scripted) -> None:
    plumbline = client(scripted.url)
    plumbline.submit(rollout())
    assert plumbline.close(60)
    assert not plumbline.submit([rollout(), rollout()])
    assert plumbline.stats().dropped == {"closed": 2}
    assert plumbline.close()
    assert plumbline.flush(1.0)
    assert plumbline.stats().accepted == 1


def test_a_defect_of_the_client_loses_one_batch_and_says_so(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise AssertionError("a defect")

    with client(scripted.url) as plumbline:
        with monkeypatch.context() as patch:
            patch.setattr(plumbline._worker._delivery, "_attempt", broken)
            plumbline.submit([rollout(), rollout()])
            assert plumbline.flush(60)
        plumbline.submit(rollout())
        assert plumbline.flush(60)
        stats = plumbline.stats()
        assert (stats.accepted, stats.dropped) == (1, {"defect": 2})


def test_a_client_that_is_gone_is_forgotten(scripted: Scripted) -> None:
    plumbline = client(scripted.url)
    gone = weakref.ref(plumbline)
    del plumbline
    gc.collect()
    assert gone() is None
    assert all(reference() is not None for reference in _lifecycle._clients.values())


def test_a_forgotten_client_sends_what_it_has_and_ends_its_thread(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_worker, "IDLE_SECONDS", 0.01)
    held = Held(scripted)
    plumbline = client(scripted.url)
    plumbline.submit(rollout(id="one"))
    assert held.reached.wait(60)
    plumbline.submit(rollout(id="two"))
    worker = weakref.ref(plumbline._worker)
    del plumbline
    gc.collect()
    held.release.set()

    def ended() -> bool:
        gc.collect()
        return worker() is None

    until(ended, "the worker is gone")
    assert [seen.ids for seen in scripted.seen] == [["one"], ["two"]]


def test_pickling_keeps_the_configuration(scripted: Scripted) -> None:
    first = client(scripted.url, worker="w", sampling={"temperature": 0.5}, headers={"X": "y"}, batch_sequences=3)
    second = pickle.loads(pickle.dumps(first))
    assert second._config == first._config
    assert second._worker._uid != first._worker._uid


def test_logging_is_limited(scripted: Scripted, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.answer = lambda _: problem(429, "queue_full", retry_after="0")
    now = [0.0]
    monkeypatch.setattr("plumbline_client._log.time.monotonic", lambda: now[0])
    log = _log.LimitedLog()
    for _ in range(500):
        log.warning("kind", "it failed: %s", "why")
    log.warning("other", "another")
    assert caplog.messages == ["it failed: why", "another"]
    now[0] = 61.0
    log.warning("kind", "it failed: %s", "again")
    assert caplog.messages[-1] == "it failed: again (499 like this were not logged)"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_starts_anew_and_sends_nothing_of_its_parent(scripted: Scripted) -> None:
    held = Held(scripted)
    plumbline = client(scripted.url)
    plumbline.submit(rollout(id="parent-1"))
    assert held.reached.wait(60)
    plumbline.submit(rollout(id="parent-2"))
    # The child is born while the parent's thread is in the middle of a request and its locks may be held.
    with plumbline._worker._changed:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                clean = plumbline.stats().submitted == 0
                plumbline.submit(rollout(id="child"))
                status = 0 if clean and plumbline.flush(60) and plumbline.stats().accepted == 1 else 2
            finally:
                os._exit(status)
    until(lambda: any("child" in seen.ids for seen in scripted.seen), "the child's sequence")
    held.release.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert plumbline.flush(60)
    assert plumbline.stats().accepted == 2
    plumbline.close()
    assert sorted(identity for seen in scripted.seen for identity in seen.ids) == ["child", "parent-1", "parent-2"]
    assert len({seen.headers["idempotency-key"] for seen in scripted.seen}) == 3


def script(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(plumbline_client.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(text), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def test_the_end_of_the_process_sends_what_is_queued(scripted: Scripted) -> None:
    done = script(
        """
        import sys
        from plumbline_client import Client, Rollout
        plumbline = Client(sys.argv[1], run="exit", linger=60.0)
        plumbline.submit([Rollout([1], [2, number], [-1.0, -2.0]) for number in range(100)])
        """,
        scripted.url,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sum(len(seen.ids) for seen in scripted.seen) == 100


def test_the_end_of_the_process_is_not_held_up_by_a_dead_server() -> None:
    done = script(
        """
        import sys
        from plumbline_client import Client, Rollout
        plumbline = Client(sys.argv[1], run="exit", exit_timeout=0.2)
        plumbline.submit([Rollout([1], [2], [-1.0])])
        raise SystemExit(3)
        """,
        f"http://127.0.0.1:{free_port()}",
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_submissions_during_the_shutdown_of_the_interpreter_do_not_raise(scripted: Scripted) -> None:
    done = script(
        """
        import atexit, sys
        def last():
            assert not plumbline.submit(Rollout([1], [2], [-1.0]))
            print(plumbline.stats().dropped)
        atexit.register(last)  # runs after the client's own, which was registered later
        from plumbline_client import Client, Rollout
        plumbline = Client(sys.argv[1], run="exit")
        plumbline.submit(Rollout([1], [2], [-1.0]))
        """,
        scripted.url,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "{'closed': 1}\n"
