"""The examples, with fakes of the engines and trainers that they import, against the real server."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import test_adapters as shapes
from plumbline_client import Client
from support import PATIENCE, REPOSITORY, Plumbline, Scripted, until

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """A module, and the packages above it."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        module = types.ModuleType(".".join(parts[:end]))
        if end == len(parts):
            module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture
def load(server: Plumbline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports an example as a module whose client speaks to the test's server."""
    loaded: list[Any] = []

    def loader(name: str) -> Any:
        specification = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        contents: Any = module
        config = contents.PLUMBLINE._config
        contents.PLUMBLINE = Client(server.url, run=config.run, engine=config.engine, linger=0.0)
        loaded.append(module)
        return module

    yield loader
    for module in loaded:
        module.PLUMBLINE.close()


def settled(module: Any, count: int) -> None:
    assert module.PLUMBLINE.flush(PATIENCE)
    stats = module.PLUMBLINE.stats()
    assert (stats.accepted, stats.dropped) == (count, {}), stats


class Params:
    def __init__(self, **values: Any) -> None:
        self.temperature, self.top_p, self.top_k = 1.0, 1.0, -1
        self.__dict__.update(values)


def test_vllm_offline(server: Plumbline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = iter(range(100))

    class LLM:
        def __init__(self, model: str) -> None:
            assert model == "MODEL"

        def generate(self, prompts: list[str], params: Params) -> list[Any]:
            assert params.__dict__["logprobs"] == 0
            token = 100 + next(calls)
            return [
                shapes.RequestOutput(
                    str(number),
                    [1, 2, 3],
                    [shapes.CompletionOutput(index, [token, 9], shapes.positions({token: -3.0}, {9: -4.0})) for index in range(4)],
                )
                for number, _ in enumerate(prompts)
            ]

    fake(monkeypatch, "vllm", LLM=LLM, SamplingParams=Params)
    run(monkeypatch, "vllm_offline.py", server.url, "MODEL")
    assert "submitted=24, queued=0" in capsys.readouterr().out


def test_vllm_server(server: Plumbline, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in (REPOSITORY / "tests/fixtures/recordings/tiny-bf16-raw.raw.jsonl").read_text().splitlines()]
    bodies = [line["response"] for line in lines if line["path"] == "/v1/completions" and not line["request"].get("stream")]
    scripted.answer = lambda seen: (200, {"Content-Type": "application/json"}, bodies[0])
    run(monkeypatch, "vllm_server.py", server.url, scripted.url, "MODEL")
    assert scripted.seen[0].body["return_token_ids"] is True
    # The recorded answer belongs to a request with several choices, which the example does not ask for.
    out = capsys.readouterr().out
    assert "submitted=1, queued=0" in out


def test_sglang_engine(server: Plumbline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Engine:
        def __init__(self, model_path: str) -> None:
            assert model_path == "MODEL"

        def generate(self, input_ids: Any, sampling_params: Any, return_logprob: bool) -> list[Any]:
            assert return_logprob
            count = len(input_ids) * sampling_params["n"]
            return [shapes.sglang_output([(-3.0, 100 + number, None)], prompt_tokens=3, id=f"s{number}") for number in range(count)]

    fake(monkeypatch, "sglang", Engine=Engine)
    run(monkeypatch, "sglang_engine.py", server.url, "MODEL")
    assert "accepted=8, dropped={}" in capsys.readouterr().out


def test_verl_trainer(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    class Manager:
        def generate_sequences(self, prompts: Any) -> Any:
            return shapes.verl()

    class RayPPOTrainer:
        global_steps = 1

        def init_workers(self) -> None:
            self.async_rollout_manager = Manager()

    fake(monkeypatch, "verl.trainer.ppo.ray_trainer", RayPPOTrainer=RayPPOTrainer)
    module = load("verl_trainer")
    trainer = module.WatchedTrainer()
    trainer.init_workers()
    assert isinstance(trainer.async_rollout_manager.generate_sequences("prompts"), shapes.DataProto)
    settled(module, 2)


def test_trl_grpo(server: Plumbline, monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    class GRPOTrainer:
        temperature = 0.9
        state = types.SimpleNamespace(global_step="policy-2")

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            return shapes.trl()

    fake(monkeypatch, "trl", GRPOTrainer=GRPOTrainer)
    module = load("trl_grpo")
    assert "completion_ids" in module.WatchedTrainer()._generate_and_score_completions([])
    settled(module, 2)
    until(lambda: server.counted("grpo-tldr") == 2, "scored at the temperature that they were sampled at")


def test_slime_rollout(server: Plumbline, monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    groups = [[shapes.Sample([1, 7, 8], 2, [-0.5, -1.0], index=1)], [shapes.Sample([1, 9], 1, [-2.0], [1], index=2)]]
    output = types.SimpleNamespace(samples=groups)
    fake(monkeypatch, "slime.rollout.sglang_rollout", generate_rollout=lambda *_, **__: output)
    module = load("slime_rollout")
    assert module.generate_rollout(types.SimpleNamespace(rollout_temperature=0.8), 0, None) is output
    assert module.generate_rollout(types.SimpleNamespace(rollout_temperature=0.8), 0, None, evaluation=True) is output
    settled(module, 2)
    until(lambda: server.counted("glm-rl") == 2, "scored at the temperature that they were sampled at")
