"""Keys, TLS, and where secrets must not turn up."""

from __future__ import annotations

import logging
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest

from plumbline_client import Client, ConnectionFailed, NotAllowed
from support import PATIENCE, Plumbline, rollout, until

INGEST, ADMIN = "ingest-key-0123456789abcdef", "admin-key-0123456789abcdef"


@pytest.fixture
def guarded(binary: Path, tmp_path: Path) -> Plumbline:
    keys = tmp_path / "keys"
    keys.write_text(f"ingest {INGEST} workers\nadmin {ADMIN} trainer\n")
    return Plumbline(binary, tmp_path, "--api-key-file", str(keys), "--credentials-poll-seconds", "1")


def test_a_key_with_the_role_is_enough_and_no_more(guarded: Plumbline) -> None:
    with guarded, Client(guarded.url, run="keys", api_key=INGEST, linger=0.0) as plumbline:
        plumbline.submit(rollout())
        assert plumbline.flush(PATIENCE)
        assert plumbline.stats().accepted == 1
        assert plumbline.get_weight_version() == "policy-2"
        with pytest.raises(NotAllowed) as refused:
            plumbline.update_weights("/checkpoints/step_1")
        assert refused.value.status == 403
        with pytest.raises(NotAllowed):
            plumbline.run_view()
        with Client(guarded.url, run="keys") as nobody, pytest.raises(NotAllowed) as unknown:
            nobody.verify(rollout())
        assert unknown.value.status == 401


def test_a_new_key_is_picked_up_and_nothing_is_lost_meanwhile(guarded: Plumbline, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("not-yet-known\n")
    with guarded, Client(guarded.url, run="rotated", api_key_file=str(key), linger=0.0, max_backoff=0.1) as plumbline:
        plumbline.submit(rollout())
        until(lambda: plumbline.stats().failed > 0, "the key refused")
        assert "unauthorized" in str(plumbline.stats().last_error)
        key.unlink()
        until(lambda: "No such file" in str(plumbline.stats().last_error), "the missing file noticed")
        key.write_text(INGEST)
        assert plumbline.flush(PATIENCE)
        assert plumbline.stats().accepted == 1
        assert plumbline.stats().dropped == {}


def test_secrets_are_in_no_text(guarded: Plumbline, caplog: pytest.LogCaptureFixture) -> None:
    wrong = "wrong-key-0123456789"
    with guarded, caplog.at_level(logging.DEBUG):
        plumbline = Client(guarded.url, run="secret", api_key=wrong, headers={"X-Proxy": "proxy-secret"}, linger=0.0)
        plumbline.submit([rollout(), object()])  # type: ignore[list-item]
        until(lambda: plumbline.stats().failed > 0, "the key refused")
        with pytest.raises(NotAllowed) as refused:
            plumbline.verify(rollout())
        texts = [caplog.text, repr(plumbline), repr(plumbline._config), str(plumbline.stats()), str(refused.value), repr(refused.value)]
        plumbline.close(0.0)
    assert "refused sequences" in caplog.text
    for text in texts:
        assert wrong not in text
        assert "proxy-secret" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://user:secret@127.0.0.1"}, "credentials"),
        ({"url": "ftp://127.0.0.1"}, "http"),
        ({"url": "127.0.0.1:8080"}, "http"),
        ({"url": "http://127.0.0.1:port"}, "[Pp]ort"),
        ({"url": "http://127.0.0.1/?key=secret"}, "query"),
        ({"api_key": "secret\n"}, "ASCII"),
        ({"api_key": "secret", "api_key_file": "/f"}, "exclude"),
        ({"ca_file": "/f"}, "https"),
        ({"drop": "some"}, "oldest"),
        ({"run": ""}, "run"),
        ({"sample_rate": 0.0}, "sample_rate"),
        ({"gil_share": 2.0}, "gil_share"),
        ({"max_queue_sequences": 0}, "max_queue_sequences"),
        ({"linger": -1.0}, "linger"),
        ({"logprobs_mode": "rwa"}, "logprobs_mode"),
    ],
)
def test_typing_mistakes_show_at_the_start(options: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"url": "http://127.0.0.1", "run": "r", **options}
    with pytest.raises(ValueError, match=message) as refused:
        Client(**arguments)  # type: ignore[arg-type]
    assert "secret" not in str(refused.value)


def test_a_pickled_client_has_the_key_and_starts_empty(guarded: Plumbline) -> None:
    with guarded, Client(guarded.url, run="pickled", api_key=INGEST) as first:
        first.submit(rollout())
        with pickle.loads(pickle.dumps(first)) as second:
            assert second.stats().submitted == 0
            second.submit(rollout())
            assert second.flush(PATIENCE)
            assert second.stats().accepted == 1


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=plumbline", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    return chain, key


def test_tls(binary: Path, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    chain, key = certificate
    with Plumbline(binary, tmp_path, "--tls-cert-file", str(chain), "--tls-key-file", str(key), scheme="https") as server:
        with Client(server.url, run="tls", ca_file=str(chain), linger=0.0) as plumbline:
            plumbline.submit(rollout())
            assert plumbline.flush(PATIENCE)
            assert plumbline.stats().accepted == 1
            assert plumbline.verify(rollout()).sequences[0].verdict
        # The system's authorities do not know this one, and there is no way to go on without.
        with Client(server.url, run="tls", linger=0.0) as trusting:
            with pytest.raises(ConnectionFailed) as failed:
                trusting.verify(rollout(), timeout=0.2)
            assert failed.value.kind == "tls"
            trusting.submit(rollout())
            until(lambda: trusting.stats().failed > 0, "a failure")
            trusting.close(0.0)
            assert trusting.stats().accepted == 0
