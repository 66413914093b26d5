"""Against the real binary."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from plumbline_client import (
    ApiError,
    Client,
    ConnectionFailed,
    Exchange,
    InvalidRequest,
    NotFound,
    Rollout,
    VersionUnavailable,
    WeightUpdateRefused,
)
from support import PATIENCE, REPOSITORY, Plumbline, balanced, free_port, rollout, until


def client(server: Plumbline, run: str, **options: Any) -> Client:
    return Client(server.url, run=run, gil_share=1.0, linger=0.0, **options)


def test_what_is_submitted_is_scored_and_counted_once(server: Plumbline, recording: list[Rollout]) -> None:
    with client(server, "submitted", worker="w3", batch_sequences=10) as plumbline:
        assert plumbline.submit(recording, policy_version="policy-2")
        assert plumbline.flush(PATIENCE)
        stats = plumbline.stats()
        assert (stats.submitted, stats.accepted, stats.dropped, stats.queued, stats.queued_bytes) == (47, 47, {}, 0, 0)
        assert stats.requests == 5
        until(lambda: server.counted("submitted") == 47, "all of it scored")
        # The numbers are the very ones that the recording has.
        view = plumbline.run_view()
        metrics = view["engines"][0]["metrics"]
        assert metrics["tokens"] == 2546
        assert metrics["mae_logprob"] == pytest.approx(9.7e-3, rel=0.01)


def test_equal_sequences_of_different_steps_all_count(server: Plumbline) -> None:
    same = rollout(4)
    with client(server, "equal") as plumbline:
        for _ in range(3):
            plumbline.submit([same, same])
            assert plumbline.flush(PATIENCE)
        assert plumbline.stats().accepted == 6
    until(lambda: server.counted("equal") == 6, "all of them scored")


def test_the_same_id_twice_goes_in_two_requests(server: Plumbline) -> None:
    with client(server, "twice") as plumbline:
        plumbline.submit([rollout(id="a"), rollout(id="b"), rollout(id="a"), rollout(id="a")])
        assert plumbline.flush(PATIENCE)
        assert plumbline.stats().accepted == 4
        assert plumbline.stats().requests == 3


def test_bad_sequences_do_not_stop_good_ones(server: Plumbline) -> None:
    good = [rollout() for _ in range(5)]
    nan, infinite, missing = rollout(2), rollout(2), rollout(2)
    nan.logprobs, infinite.logprobs, missing.logprobs = [math.nan, -1.0], [-math.inf, -1.0], [None, -1.0]
    bad: list[Any] = [
        Rollout([1], [2000, 2048], [-1.0, -1.0]),
        Rollout([1], [10**40], [-1.0]),
        Rollout([1], [-1], [-1.0]),
        Rollout([1], [1.5], [-1.0]),
        Rollout([1], [True], [-1.0]),
        Rollout([1], ["7"], [-1.0]),
        Rollout([1], [[7]], [-1.0]),
        Rollout([1], [7], ["much"]),
        Rollout([1], [7], [-1.0], loss_mask=[2]),
        Rollout([1], [7], [-1.0], id="x" * 201),
        Rollout([1], [7], [-1.0], id="a\nb"),
        Rollout([1], [7], [-1.0], id="\ud800"),
        Rollout([1], [7], [-1.0], sampling={"temprature": 1.0}),
        Rollout([1], [7], [-1.0], sampling={"temperature": math.nan}),
        Rollout([1], [7], [-1.0], logprobs_mode="rwa"),
        Rollout([1], [7] * 3000, [-1.0] * 3000),
        {"prompt_token_ids": [1], "completion_token_ids": [7], "logprobs": [-1.0], "lgprobs": []},
        {"prompt_token_ids": [1], "completion_token_ids": [7]},
        # Refused before they are sent.
        Rollout([1], [], []),
        Rollout([1], [7], [-1.0, -2.0]),
        Rollout([1], [7], [-1.0], loss_mask=[1, 1]),
        Rollout(None, [7], [-1.0]),
        Rollout("12", [7], [-1.0]),
        Rollout([1], [object()], [-1.0]),
        object(),
        None,
    ]
    mixed: list[Any] = []
    for number, item in enumerate(bad):
        mixed += [item, good[number % 5]] if number < 5 else [item]
    with client(server, "hostile") as plumbline:
        plumbline.submit([*mixed, nan, infinite, missing])
        assert plumbline.flush(PATIENCE)
        stats = plumbline.stats()
    assert stats.accepted == len(good) + 3, stats
    assert stats.dropped_total == len(bad), stats
    assert balanced(stats)
    for reason in ("token_out_of_vocabulary", "length_mismatch", "unknown_field", "invalid_type", "empty_completion", "invalid_label"):
        assert stats.dropped.get(reason), (reason, stats)
    until(lambda: server.counted("hostile") == 8, "the good ones scored")


def test_a_recordings_own_bodies(server: Plumbline) -> None:
    path = REPOSITORY / "tests/fixtures/recordings/tiny-bf16-raw.raw.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    with client(server, "bodies") as plumbline:
        for line in lines:
            plumbline.submit_exchange(
                line["response"], line["request"], path=line["path"], id=line["id"], logprobs_mode=line["logprobs_mode"]
            )
        plumbline.submit_exchange({"object": "text_completion", "choices": [{"index": 0, "text": " a", "logprobs": None}]}, {"prompt": "x"})
        plumbline.submit_exchange(b'{"error": "out of memory"}')
        assert plumbline.flush(PATIENCE)
        stats = plumbline.stats()
        assert stats.accepted == len(lines), stats
        assert stats.dropped_total == 2
    until(lambda: server.counted("bodies") >= 47, "all choices scored")


def test_without_a_store_it_is_answered_at_once(binary: Path, tmp_path: Path) -> None:
    with Plumbline(binary, tmp_path) as storeless, client(storeless, "storeless") as plumbline:
        for _ in range(3):
            plumbline.submit([rollout() for _ in range(4)])
            assert plumbline.flush(PATIENCE)
        stats = plumbline.stats()
        assert (stats.accepted, stats.dropped, stats.failed, stats.requests) == (12, {}, 1, 4), stats
        assert storeless.counted("storeless") == 12


def test_a_limit_of_the_server_splits_requests(binary: Path, tmp_path: Path) -> None:
    configuration = tmp_path / "small.toml"
    configuration.write_text("max_body_bytes = 4000\nmax_sequences_per_request = 8\n")
    with (
        Plumbline(binary, tmp_path, "--data-dir", str(tmp_path / "data"), "--config", str(configuration)) as small,
        client(small, "small") as plumbline,
    ):
        plumbline.submit([rollout(20, id=f"s{number}") for number in range(30)])
        plumbline.submit(rollout(500))
        assert plumbline.flush(PATIENCE)
        stats = plumbline.stats()
        assert stats.accepted == 30, stats
        assert stats.dropped == {"body_too_large": 1}
        until(lambda: small.counted("small") == 30, "all of it scored")


def test_verify_gives_a_typed_result(server: Plumbline, recording: list[Rollout]) -> None:
    with client(server, "verified") as plumbline:
        result = plumbline.verify(recording[:4], include=["tokens", "importance_weights", "diagnosis"], policy_version="policy-2")
        assert (result.run, result.engine, result.stored) == ("verified", "vllm", True)
        assert result.reference.policy_version == "policy-2"
        assert result.metrics["tokens"] == sum(len(one.completion_token_ids) for one in recording[:4])
        assert [sequence.verdict for sequence in result.sequences] == ["consistent"] * 4
        first = result.sequences[0]
        assert first.tokens is not None
        assert first.importance_weights is not None
        assert len(first.tokens.log_ratio) == len(first.importance_weights.token) == len(recording[0].completion_token_ids)
        for engine, reference, ratio in zip(recording[0].logprobs, first.tokens.reference_logprobs, first.tokens.log_ratio):
            assert reference is not None
            assert ratio == pytest.approx(reference - engine, abs=1e-9)
        assert first.diagnosis == []
        identity = plumbline.verify_later(rollout())
        done = plumbline.wait(identity, PATIENCE)
        assert plumbline.result(identity).state == "done"
        assert plumbline.result(done.id).result == done


def test_typed_errors(server: Plumbline) -> None:
    with client(server, "errors") as plumbline:
        with pytest.raises(InvalidRequest) as refused:
            plumbline.verify([rollout(), Rollout([1], [2048], [-1.0])])
        assert refused.value.code == "token_out_of_vocabulary"
        assert refused.value.errors[0].pointer == "/sequences/1/completion_token_ids/0"
        assert refused.value.request_id
        with pytest.raises(VersionUnavailable):
            plumbline.verify(rollout(), policy_version="no such version")
        with pytest.raises(NotFound):
            plumbline.wait("ver_nothing", 1.0)
        with pytest.raises(NotFound):
            plumbline.run_view("no/such run")
        with pytest.raises(WeightUpdateRefused, match="weights_root"):
            plumbline.update_weights("/nowhere/step_3", timeout=5.0)
    with Client(f"http://127.0.0.1:{free_port()}", run="nobody") as nobody:
        with pytest.raises(ConnectionFailed) as failed:
            nobody.verify(rollout(), timeout=0.3)
        assert failed.value.kind == "unreachable"
    # A path that leads to another program's API.
    with Client(server.url + "/elsewhere", run="lost") as lost, pytest.raises(ApiError):
        lost.get_weight_version()


def test_weights_follow_the_policy(binary: Path, tmp_path: Path) -> None:
    root = REPOSITORY / "tests/fixtures/tiny"
    with Plumbline(binary, tmp_path, "--weights-root", str(root)) as server, client(server, "weights") as plumbline:
        assert plumbline.get_weight_version() == "policy-2"
        assert "policy-1" in plumbline.update_weights(str(root / "policy-1"), "1")
        assert plumbline.get_weight_version() == "1"
        result = plumbline.verify([rollout(policy_version="1"), rollout(policy_version="policy-2")])
        assert [sequence.policy_version for sequence in result.sequences] == ["1", "policy-2"]
        spans = [{"version": "policy-2", "start": 0, "end": 3}, {"version": "1", "start": 3, "end": 8}]
        assert plumbline.verify(Rollout([1], [9] * 8, [-1.0] * 8, weight_versions=spans)).sequences[0].policy_version is None


def test_a_server_that_is_killed_and_started_anew_has_everything_once(binary: Path, tmp_path: Path) -> None:
    """kill -9 while sequences are on their way, several times; same data dir, same port."""
    with Plumbline(binary, tmp_path, "--data-dir", str(tmp_path / "data")) as server:  # noqa: SIM117 (needs its url)
        with client(server, "killed", batch_sequences=4, max_backoff=0.2) as plumbline:
            total = 0
            for _ in range(4):
                for _ in range(15):
                    plumbline.submit([rollout(12) for _ in range(4)])
                    total += 4
                before = plumbline.stats().accepted
                until(lambda before=before: plumbline.stats().accepted > before, "some of it accepted")  # type: ignore[misc]
                server.kill()
                plumbline.submit([rollout(12) for _ in range(4)])
                total += 4
                failed = plumbline.stats().failed
                until(lambda failed=failed: plumbline.stats().failed > failed, "the outage noticed")  # type: ignore[misc]
                server.start()
            assert plumbline.flush(PATIENCE)
            stats = plumbline.stats()
            assert (stats.submitted, stats.accepted, stats.dropped) == (total, total, {}), stats
            assert stats.retried >= 4
            until(lambda: server.counted("killed") >= total, f"{total} sequences scored")
            # Nothing that was sent twice is still on its way to be counted again.
            done = plumbline.verify_later(rollout())
            plumbline.wait(done, PATIENCE)
            assert server.counted("killed") == total + 1


def test_an_exchange_and_a_sequence_may_alternate(server: Plumbline) -> None:
    line = json.loads((REPOSITORY / "tests/fixtures/recordings/tiny-bf16-raw.raw.jsonl").read_text().splitlines()[0])
    exchange = Exchange(line["response"], line["request"], path=line["path"])
    with client(server, "alternating") as plumbline:
        plumbline.submit([rollout(), exchange, rollout(), {"response": line["response"], "request": line["request"]}])
        assert plumbline.flush(PATIENCE)
        assert plumbline.stats().accepted == 4
        assert plumbline.stats().requests == 4
