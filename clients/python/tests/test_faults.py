"""Servers that are dead, silent, full, failing, or find fault with what they get."""

from __future__ import annotations

import socket
import threading

import pytest

from plumbline_client import Client
from support import ACCEPTED, Answer, Scripted, Seen, balanced, free_port, problem, rollout, until


def client(url: str, **options: object) -> Client:
    arguments: dict[str, object] = {"run": "faults", "linger": 0.0, "gil_share": 1.0, **options}
    return Client(url, **arguments)  # type: ignore[arg-type]


def test_a_dead_port_costs_nothing_but_what_the_queue_cannot_hold() -> None:
    with client(f"http://127.0.0.1:{free_port()}", max_queue_sequences=128) as plumbline:
        for _ in range(10):
            plumbline.submit([rollout() for _ in range(64)])
        until(lambda: plumbline.stats().failed > 0, "a refused connection")
        stats = plumbline.stats()
        assert stats.submitted == 640
        assert stats.accepted == 0
        # 128 wait, and 64 are on their way.
        assert stats.dropped == {"queue_full": stats.submitted - stats.queued}
        assert stats.queued <= 192
        assert "refused" in str(stats.last_error)
        assert not plumbline.flush(0.05)
        plumbline.close(0.0)
        until(lambda: plumbline.stats().queued == 0, "the end of what was queued")
        assert set(plumbline.stats().dropped) == {"queue_full", "closed"}
        assert balanced(plumbline.stats())


def test_a_server_that_never_answers_does_not_hold_up_submit_or_close() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    accepted = threading.Event()
    kept: list[socket.socket] = []

    def accept() -> None:
        kept.append(listener.accept()[0])
        accepted.set()

    threading.Thread(target=accept, daemon=True).start()
    plumbline = client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=3600.0)
    assert plumbline.submit(rollout())
    assert accepted.wait(60)
    for _ in range(100):
        # Returns although the one thread that sends is stuck for an hour.
        assert plumbline.submit([rollout() for _ in range(10)])
    assert plumbline.stats().submitted == 1001
    assert plumbline.stats().queued == 1001
    assert not plumbline.close(0.0)
    until(lambda: plumbline.stats().queued == 0, "the stuck request was aborted")
    assert plumbline.stats().dropped == {"closed": 1001}
    listener.close()


def test_a_close_while_a_connection_is_made_is_not_missed(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    plumbline = client(scripted.url, timeout=3600.0)
    connection = plumbline._worker._delivery.connection
    connect = connection._connect

    def connect_late() -> object:
        made = connect()
        connection.abort()  # finds no connection to shut down
        return made

    monkeypatch.setattr(connection, "_connect", connect_late)
    scripted.answer = lambda _: pytest.fail("the request was sent")
    plumbline.submit(rollout())
    until(lambda: plumbline.stats().failed > 0, "the request failed")
    plumbline.close(0.0)
    until(lambda: plumbline.stats().queued == 0, "all settled")
    assert plumbline.stats().dropped == {"closed": 1}


def test_a_slow_answer_is_a_timeout_and_is_tried_again(scripted: Scripted) -> None:
    slow = threading.Event()

    def answer(seen: Seen) -> Answer:
        if len(scripted.seen) == 1:
            slow.wait(60)
        return ACCEPTED

    scripted.answer = answer
    with client(scripted.url, timeout=0.2) as plumbline:
        plumbline.submit(rollout())
        assert plumbline.flush(60)
        slow.set()
        assert plumbline.stats().accepted == 1
        assert "timeout" in str(plumbline.stats().last_error)
    # Under one key, so that the server counts it once.
    assert len({seen.headers["idempotency-key"] for seen in scripted.seen}) == 1
    assert len({seen.raw for seen in scripted.seen}) == 1


@pytest.mark.parametrize("retry_after", ["0", "0.01", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", "-5", "nan"])
def test_429_is_waited_out_as_told(scripted: Scripted, retry_after: str) -> None:
    scripted.answers(*[problem(429, "queue_full", retry_after=retry_after)] * 2)
    with client(scripted.url) as plumbline:
        plumbline.submit([rollout() for _ in range(3)])
        assert plumbline.flush(60)
        stats = plumbline.stats()
    assert (stats.accepted, stats.failed, stats.retried, stats.requests, stats.sent) == (3, 2, 2, 3, 3)
    assert len({seen.headers["idempotency-key"] for seen in scripted.seen}) == 1


def test_retry_after_is_obeyed(scripted: Scripted) -> None:
    scripted.answers(problem(429, "queue_full", retry_after="3000"))
    with client(scripted.url, retry_seconds=10_000.0) as plumbline:
        plumbline.submit(rollout())
        until(lambda: plumbline.stats().failed == 1, "the answer 429")
        assert not plumbline.flush(0.3)
        assert plumbline.stats().requests == 1
        plumbline.close(0.0)


def test_always_429_is_given_up_after_retry_seconds(scripted: Scripted) -> None:
    scripted.answer = lambda _: problem(429, "queue_full", retry_after="0")
    with client(scripted.url, retry_seconds=0.5) as plumbline:
        plumbline.submit([rollout() for _ in range(5)])
        assert plumbline.flush(60)
        assert plumbline.stats().dropped == {"queue_full": 5}
        # The next ones are tried anew.
        scripted.answer = lambda _: ACCEPTED
        plumbline.submit(rollout())
        assert plumbline.flush(60)
        assert plumbline.stats().accepted == 1


@pytest.mark.parametrize("status", [401, 403, 404, 408, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(scripted: Scripted, status: int) -> None:
    scripted.answers(problem(status, "later", retry_after="0"), (status, {"Retry-After": "0"}, b"<html>a proxy's page</html>"))
    with client(scripted.url) as plumbline:
        plumbline.submit(rollout())
        assert plumbline.flush(60)
        assert plumbline.stats().accepted == 1
        assert plumbline.stats().failed == 2


def test_without_retry_after_waits_grow(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plumbline_client._delivery.FIRST_BACKOFF", 0.001)
    waits: list[float] = []
    scripted.answers(*[problem(503, "loading")] * 5)
    plumbline = client(scripted.url)
    wait = plumbline._worker._stop.wait

    def waited(seconds: float) -> bool:
        waits.append(seconds)
        return wait(seconds)

    plumbline._worker._stop.wait = waited  # type: ignore[method-assign, assignment]
    plumbline.submit(rollout())
    assert plumbline.flush(60)
    plumbline.close()
    assert len(waits) == 5
    for number, seconds in enumerate(waits):
        assert 0.5 * 0.001 * 2**number <= seconds <= 0.001 * 2**number


def test_a_body_that_is_too_large_is_halved_until_it_fits(scripted: Scripted) -> None:
    scripted.answer = lambda seen: ACCEPTED if len(seen.ids) <= 2 else problem(413, "body_too_large")
    with client(scripted.url) as plumbline:
        plumbline.submit([rollout(id=f"s{number}") for number in range(10)])
        assert plumbline.flush(60)
        assert plumbline.stats().accepted == 10
    good = [seen for seen in scripted.seen if len(seen.ids) <= 2]
    assert sorted(identity for seen in good for identity in seen.ids) == sorted(f"s{number}" for number in range(10))
    assert len({seen.headers["idempotency-key"] for seen in good}) == len(good)


def test_a_sequence_that_is_too_large_alone_is_dropped(scripted: Scripted) -> None:
    scripted.answer = lambda seen: problem(413, "body_too_large") if "big" in seen.ids else ACCEPTED
    with client(scripted.url) as plumbline:
        plumbline.submit([rollout(id=name) for name in ("a", "b", "big", "c", "d")])
        assert plumbline.flush(60)
        assert plumbline.stats().accepted == 4
        assert plumbline.stats().dropped == {"body_too_large": 1}


def test_only_the_sequences_that_the_server_points_at_are_dropped(scripted: Scripted) -> None:
    scripted.answers(
        (
            422,
            {},
            {
                "code": "validation_failed",
                "errors": [
                    {"pointer": "/sequences/1/logprobs", "detail": "d", "code": "length_mismatch"},
                    {"pointer": "/sequences/3/completion_token_ids/0", "detail": "d", "code": "token_out_of_vocabulary"},
                    {"pointer": "/sequences/3/prompt_token_ids/0", "detail": "d", "code": "token_out_of_vocabulary"},
                ],
            },
        ),
        problem(409, "policy_version_unavailable", "/sequences/0/policy_version"),
        problem(500, "scoring_failed", "/sequences/1"),
    )
    with client(scripted.url) as plumbline:
        plumbline.submit([rollout(id=f"s{number}") for number in range(6)])
        assert plumbline.flush(60)
        stats = plumbline.stats()
    assert [seen.ids for seen in scripted.seen] == [
        ["s0", "s1", "s2", "s3", "s4", "s5"],
        ["s0", "s2", "s4", "s5"],
        ["s2", "s4", "s5"],
        ["s2", "s5"],
    ]
    assert stats.accepted == 2
    assert stats.dropped == {
        "length_mismatch": 1,
        "token_out_of_vocabulary": 1,
        "policy_version_unavailable": 1,
        "scoring_failed": 1,
    }
    assert len({seen.headers["idempotency-key"] for seen in scripted.seen}) == 4


def test_what_is_wrong_with_the_whole_request_drops_it_without_trying_each_sequence(scripted: Scripted) -> None:
    scripted.answer = lambda _: problem(422, "invalid_label", "/run")
    with client(scripted.url) as plumbline:
        plumbline.submit([rollout() for _ in range(8)])
        assert plumbline.flush(60)
        assert plumbline.stats().dropped == {"invalid_label": 8}
    assert len(scripted.seen) == 1


def test_an_error_without_a_place_is_narrowed_down(scripted: Scripted) -> None:
    scripted.answer = lambda seen: problem(400, "malformed_json") if "bad" in seen.ids else ACCEPTED
    with client(scripted.url) as plumbline:
        plumbline.submit([rollout(id=name) for name in ("a", "b", "bad", "c")])
        assert plumbline.flush(60)
        assert plumbline.stats().accepted == 3
        assert plumbline.stats().dropped == {"malformed_json": 1}


def test_a_pointer_beyond_the_request_is_not_believed(scripted: Scripted) -> None:
    scripted.answer = lambda _: problem(422, "odd", "/sequences/99", "/sequences/-1", "/sequences/x", "nonsense")
    with client(scripted.url) as plumbline:
        plumbline.submit([rollout() for _ in range(2)])
        assert plumbline.flush(60)
        assert plumbline.stats().dropped == {"odd": 2}


def test_a_server_without_a_store_is_asked_to_answer_at_once(scripted: Scripted) -> None:
    scripted.answer = lambda seen: problem(501, "async_unavailable") if "prefer" in seen.headers else (200, {}, {})
    with client(scripted.url) as plumbline:
        for _ in range(3):
            plumbline.submit(rollout())
            assert plumbline.flush(60)
        assert plumbline.stats().accepted == 3
    assert ["prefer" in seen.headers for seen in scripted.seen] == [True, False, False, False]
    assert scripted.seen[1].headers["plumbline-priority"] == "bulk"
    assert scripted.seen[0].headers["idempotency-key"] == scripted.seen[1].headers["idempotency-key"]


def test_respond_async_can_be_insisted_on_or_switched_off(scripted: Scripted) -> None:
    scripted.answer = lambda seen: problem(501, "async_unavailable") if "prefer" in seen.headers else (200, {}, {})
    with client(scripted.url, respond_async=True) as insisting, client(scripted.url, respond_async=False) as waiting:
        insisting.submit(rollout())
        waiting.submit(rollout())
        assert insisting.flush(60)
        assert waiting.flush(60)
        assert insisting.stats().dropped == {"async_unavailable": 1}
        assert waiting.stats().accepted == 1


def test_what_is_compressed_too_much_goes_plain(scripted: Scripted) -> None:
    def answer(seen: Seen) -> Answer:
        return problem(413, "compression_ratio") if "content-encoding" in seen.headers else ACCEPTED

    scripted.answer = answer
    with client(scripted.url) as plumbline:
        plumbline.submit([rollout() for _ in range(4)])
        assert plumbline.flush(60)
        assert plumbline.stats().accepted == 4
    assert len(scripted.seen) == 2
    assert scripted.seen[0].body == scripted.seen[1].body


def test_a_used_key_is_replaced(scripted: Scripted) -> None:
    scripted.answers(problem(422, "idempotency_key_reused"))
    with client(scripted.url) as plumbline:
        plumbline.submit(rollout())
        assert plumbline.flush(60)
        assert plumbline.stats().accepted == 1
    first, second = (seen.headers["idempotency-key"] for seen in scripted.seen)
    assert first != second


def test_connections_are_kept_and_a_closed_one_is_no_failure(scripted: Scripted) -> None:
    with client(scripted.url) as plumbline:
        for number in range(4):
            # The third answer closes its connection without saying so beforehand.
            scripted.answer = lambda _, number=number: (202, {"Connection": "close"} if number == 1 else {}, {})  # type: ignore[misc]
            plumbline.submit(rollout())
            assert plumbline.flush(60)
        assert plumbline.stats().failed == 0
        assert plumbline.stats().accepted == 4
    connections = [seen.connection for seen in scripted.seen]
    assert connections[0] == connections[1] != connections[2] == connections[3]


def test_an_answer_before_the_body_was_read_counts() -> None:
    """A proxy that refuses large bodies at once and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.recv(1024)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    with client(f"http://127.0.0.1:{listener.getsockname()[1]}") as plumbline:
        plumbline.submit([rollout(2000) for _ in range(2)])
        assert plumbline.flush(60)
        assert plumbline.stats().dropped == {"http_413": 2}
    listener.close()


def test_garbage_instead_of_http_is_an_outage() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"\x00\x01SSH-2.0-what\r\n\r\n")
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    plumbline = client(f"http://127.0.0.1:{listener.getsockname()[1]}")
    plumbline.submit(rollout())
    until(lambda: plumbline.stats().failed > 0, "a failure")
    assert "unreachable" in str(plumbline.stats().last_error)
    plumbline.close(0.0)
    listener.close()
