"""Fixtures: the real server, scripted servers, recorded rollouts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline_client import Rollout
from support import REPOSITORY, Plumbline, Scripted


def pytest_addoption(parser: pytest.Parser) -> None:
    default = os.environ.get("CLIENT_TEST_BINARY", str(REPOSITORY / "target/debug/plumbline"))
    parser.addoption("--binary", default=default, help="the plumbline binary that is tested against")


@pytest.fixture(scope="session")
def binary(pytestconfig: pytest.Config) -> Path:
    path = Path(pytestconfig.getoption("--binary")).resolve()
    if not path.is_file():
        pytest.fail(f"{path} is missing: cargo build, or --binary FILE")
    return path


@pytest.fixture(scope="session")
def server(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plumbline]:
    """A server with a store, for tests that do nothing to it."""
    folder = tmp_path_factory.mktemp("server")
    with Plumbline(binary, folder, "--data-dir", str(folder / "data")) as running:
        yield running


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """A server that answers as the test says."""
    with Scripted() as running:
        yield running


@pytest.fixture(scope="session")
def recording() -> list[Rollout]:
    """What a real vLLM sampled from the embedded model."""
    path = REPOSITORY / "crates/plumbline/assets/recordings/tiny-bf16-raw.jsonl"
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return [Rollout(line["prompt_token_ids"], line["completion_token_ids"], line["logprobs"], sampling=line["sampling"]) for line in lines]
