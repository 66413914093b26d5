"""Objects of engines and trainers in the shapes that they have (the modules name the versions), made here without importing any."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Optional

import numpy as np
import pytest

from plumbline_client import Client, ConversionError, from_sglang, from_slime, from_trl, from_verl, from_vllm
from support import Scripted

# vLLM


@dataclass
class Logprob:
    logprob: float
    rank: Optional[int] = None
    decoded_token: Optional[str] = None


@dataclass
class CompletionOutput:
    index: int
    token_ids: Any
    logprobs: Any
    finish_reason: Optional[str] = "stop"
    text: str = ""
    cumulative_logprob: Optional[float] = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: Optional[list[int]]
    outputs: list[CompletionOutput]
    num_cached_tokens: Optional[int] = None
    finished: bool = True


class FlatLogprobs:
    """vLLM's compact form: a sequence of dicts that are made when asked for."""

    def __init__(self, positions: list[dict[int, float]]) -> None:
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> dict[int, Logprob]:
        return {token: Logprob(value) for token, value in self._positions[index].items()}


def positions(*pairs: dict[int, float]) -> list[dict[int, Logprob]]:
    return [{token: Logprob(value) for token, value in pair.items()} for pair in pairs]


def test_vllm() -> None:
    first = CompletionOutput(0, (7, 8), positions({9: -0.1, 7: -2.0}, {8: -0.5}))
    second = CompletionOutput(1, [8], FlatLogprobs([{8: -1.0}]), "length")
    outputs = [
        RequestOutput("r1", [1, 2], [first, second], 1),
        RequestOutput("r2", [3], [CompletionOutput(0, [7], positions({7: -9999.0}))]),
    ]
    a, b, c = from_vllm(outputs, policy_version="5", sampling={"temperature": 0.7})
    # Of the candidates the sampled one's, not the first or the likeliest.
    assert (a.id, a.prompt_token_ids, a.completion_token_ids, a.logprobs) == ("r1-0", [1, 2], [7, 8], [-2.0, -0.5])
    assert (a.finish_reason, a.cached_tokens, a.policy_version, a.sampling) == ("stop", 1, "5", {"temperature": 0.7})
    assert (b.id, b.completion_token_ids, b.logprobs, b.finish_reason) == ("r1-1", [8], [-1.0], "length")
    assert (c.id, c.logprobs, c.cached_tokens) == ("r2-0", [-9999.0], None)
    assert from_vllm(outputs[1])[0].id == "r2-0"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (RequestOutput("r", [1], [CompletionOutput(0, [7], None)]), "missing_logprobs"),
        (RequestOutput("r", [1], [CompletionOutput(0, [7], positions({8: -1.0}))]), "missing_logprobs"),
        (RequestOutput("r", [1], [CompletionOutput(0, [7, 8], positions({7: -1.0}))]), "length_mismatch"),
        (RequestOutput("r", [1], [CompletionOutput(0, [7], positions({7: -1.0}), None)]), "not_finished"),
        (RequestOutput("r", None, [CompletionOutput(0, [7], positions({7: -1.0}))]), "missing_token_ids"),
    ],
)
def test_vllm_outputs_that_cannot_be_read(output: RequestOutput, reason: str) -> None:
    with pytest.raises(ConversionError) as refused:
        from_vllm([output])
    assert refused.value.reason == reason


# SGLang


def sglang_output(tuples: list[Any], **meta: Any) -> dict[str, Any]:
    info = {"id": "s", "prompt_tokens": 2, "completion_tokens": len(tuples), "finish_reason": {"type": "stop", "matched": 2}}
    return {"text": "", "meta_info": {**info, "output_token_logprobs": tuples, **meta}}


def test_sglang() -> None:
    spans = [{"version": "41", "start": 0, "end": 1}, {"version": "42", "start": 1, "end": 2}]
    outputs = [
        sglang_output([(-0.5, 7, None), (-1.0, 8, " b")], weight_version="42", weight_versions=spans, cached_tokens=2),
        sglang_output([(-0.25, 9)], weight_version="default", finish_reason=None),
        sglang_output([[None, 7, None]]),
        {**sglang_output([(-3.0, 6, None)]), "output_ids": [6]},
    ]
    a, b, c, d = from_sglang(outputs, [[1, 2], [3, 4]])
    assert (a.prompt_token_ids, a.completion_token_ids, a.logprobs) == ([1, 2], [7, 8], [-0.5, -1.0])
    assert (a.policy_version, a.weight_versions, a.cached_tokens, a.finish_reason, a.id) == ("42", spans, 2, "stop", "s")
    assert (b.prompt_token_ids, b.policy_version, b.finish_reason) == ([1, 2], None, None)
    assert (c.prompt_token_ids, c.logprobs) == ([3, 4], [None])
    assert d.completion_token_ids == [6]
    assert from_sglang(outputs[0], [1, 2])[0].prompt_token_ids == [1, 2]
    own = from_sglang(outputs[0], [1, 2], policy_version="7")[0]
    assert (own.policy_version, own.weight_versions) == ("7", None)
    assert from_sglang({**outputs[0], "prompt_token_ids": [5, 6]})[0].prompt_token_ids == [5, 6]
    scored = sglang_output([(-0.5, 7, None)], input_token_logprobs=[(None, 1, None), (-2.0, 2, None)])
    assert from_sglang(scored)[0].prompt_token_ids == [1, 2]


@pytest.mark.parametrize(
    ("outputs", "prompts", "reason"),
    [
        ({"text": "", "meta_info": {"prompt_tokens": 2}}, [1, 2], "missing_logprobs"),
        (sglang_output([(-0.5, 7, None)]), None, "missing_token_ids"),
        (sglang_output([(-0.5, 7, None)], input_token_logprobs=[(-2.0, 2, None)]), None, "missing_token_ids"),
        (sglang_output([(-0.5, 7, None)]), [1, 2, 3], "contradictory_exchange"),
        ({**sglang_output([(-0.5, 7, None)]), "output_ids": [8]}, [1, 2], "contradictory_exchange"),
        ([sglang_output([(-0.5, 7, None)])] * 3, [[1, 2], [3, 4]], "length_mismatch"),
    ],
)
def test_sglang_outputs_that_cannot_be_read(outputs: Any, prompts: Any, reason: str) -> None:
    with pytest.raises(ConversionError) as refused:
        from_sglang(outputs, prompts)
    assert refused.value.reason == reason


# verl: rows of tensors; torch's and numpy's have the same face here.


class Tensor:
    """As much of a torch tensor as may be used: indexing, `shape`, `len`, `tolist`."""

    def __init__(self, values: Any) -> None:
        self._values = np.array(values)

    @property
    def shape(self) -> Any:
        return self._values.shape

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Tensor:
        return Tensor(self._values[index])

    def tolist(self) -> Any:
        return self._values.tolist()

    def __bool__(self) -> bool:
        raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")


class TensorDict:
    """tensordict refuses `in`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def keys(self) -> Any:
        return self._values.keys()

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __contains__(self, name: str) -> bool:
        raise NotImplementedError("TensorDict does not support membership checks with the `in` keyword")


@dataclass
class DataProto:
    batch: Any
    meta_info: dict[str, Any] = field(default_factory=dict)
    non_tensor_batch: dict[str, Any] = field(default_factory=dict)


VERL: dict[str, Any] = {
    "prompts": [[0, 0, 5, 6], [1, 2, 3, 4]],
    "responses": [[7, 8, 9, 0, 0], [7, 0, 0, 0, 0]],
    "attention_mask": [[0, 0, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0, 0]],
    "response_mask": [[1, 0, 1, 0, 0], [1, 0, 0, 0, 0]],
    "rollout_log_probs": [[-0.5, 0.0, -1.5, 0.0, 0.0], [-2.0, 0.0, 0.0, 0.0, 0.0]],
}


def verl(make: Callable[[Any], Any] = Tensor, **changes: Any) -> DataProto:
    values = {name: value for name, value in {**VERL, **changes}.items() if value is not None}
    return DataProto(TensorDict({name: make(value) for name, value in values.items()}), {"temperature": 0.8})


@pytest.mark.parametrize("make", [Tensor, np.array, list, lambda values: np.array(values, dtype=np.float32)])
def test_verl(make: Callable[[Any], Any]) -> None:
    a, b = from_verl(verl(make), policy_version="3", ids=["x", "y"])
    assert (a.prompt_token_ids, a.completion_token_ids, a.logprobs, a.loss_mask) == ([5, 6], [7, 8, 9], [-0.5, 0.0, -1.5], [1, 0, 1])
    assert (b.prompt_token_ids, b.completion_token_ids, b.logprobs, b.loss_mask) == ([1, 2, 3, 4], [7], [-2.0], [1])
    assert (a.id, b.id, a.policy_version, a.logprobs_mode, a.sampling) == ("x", "y", "3", "processed", {"temperature": 0.8})


def test_tensors_on_a_gpu_are_copied_once() -> None:
    copies: list[int] = []

    class OnGpu(Tensor):
        is_cuda = True

        def cpu(self) -> Tensor:
            copies.append(1)
            return Tensor(self.tolist())

        def __getitem__(self, index: int) -> Tensor:
            raise AssertionError("a copy for each row")

    assert len(from_verl(verl(OnGpu))) == 2
    assert len(copies) == 5
    assert len(from_trl({name: OnGpu(value) for name, value in TRL.items()})) == 2


def test_verl_variants() -> None:
    assert from_verl(verl(response_mask=None))[0].loss_mask is None
    assert from_verl(verl(), sampling={"top_p": 0.9})[0].sampling == {"top_p": 0.9}
    # The batch itself, and one without padding.
    assert from_verl(verl().batch)[1].completion_token_ids == [7]
    plain = {name: [[1, 1]] for name in ("prompts", "responses", "response_mask", "rollout_log_probs")}
    assert from_verl({**plain, "attention_mask": [[1] * 4]})[0].prompt_token_ids == [1, 1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rollout_log_probs": None}, "missing_logprobs"),
        ({"attention_mask": None}, "missing_field"),
        ({"rollout_log_probs": [[-1.0] * 4] * 2}, "length_mismatch"),
        ({"attention_mask": [[1] * 8] * 2}, "length_mismatch"),
        ({"response_mask": [[1] * 5] * 3}, "length_mismatch"),
        ({"attention_mask": [[1, 0, 1, 1, 1, 1, 1, 0, 0], [1] * 9]}, "invalid_padding"),
        ({"attention_mask": [[0, 0, 1, 1, 1, 0, 1, 0, 0], [1] * 9]}, "invalid_padding"),
        ({"attention_mask": [[0, 0, 1, 2, 1, 1, 1, 0, 0], [1] * 9]}, "invalid_mask"),
        ({"response_mask": [[1, 0, 1, 1, 0], [1] * 5]}, "invalid_mask"),
        ({"response_mask": [[1, 0, math.nan, 0, 0], [1] * 5]}, "invalid_mask"),
        ({"prompts": [1, 2]}, "length_mismatch"),
    ],
)
def test_verl_batches_that_cannot_be_read(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConversionError) as refused:
        from_verl(verl(**changes))
    assert refused.value.reason == reason


# TRL

TRL: dict[str, Any] = {
    "prompt_ids": [[0, 5, 6], [1, 2, 3]],
    "prompt_mask": [[0, 1, 1], [1, 1, 1]],
    "completion_ids": [[7, 8, 0], [9, 9, 9]],
    "completion_mask": [[1, 1, 0], [1, 1, 1]],
    "sampling_per_token_logps": [[-0.5, -1.0, 0.0], [-0.25, -0.5, math.nan]],
}


def trl(**changes: Any) -> dict[str, Any]:
    return {name: Tensor(value) for name, value in {**TRL, **changes}.items() if value is not None}


def test_trl_batches() -> None:
    a, b = from_trl(trl(tool_mask=[[1, 0, 1], [1, 1, 1]]), policy_version="2")
    assert (a.prompt_token_ids, a.completion_token_ids, a.logprobs, a.loss_mask) == ([5, 6], [7, 8], [-0.5, -1.0], [1, 0])
    assert (b.prompt_token_ids, b.completion_token_ids) == ([1, 2, 3], [9, 9, 9])
    assert math.isnan(b.logprobs[2])
    assert (a.logprobs_mode, a.policy_version) == ("processed", "2")
    assert from_trl(trl())[0].loss_mask is None


def test_what_trls_client_gives_back() -> None:
    answer = {
        "prompt_ids": [[1, 2], [3]],
        "completion_ids": [[7, 8], [7], [9], [9]],
        "logprobs": [[[-0.5], [-1.0]], [[-0.1, -2.0]], [[None]], [[-3.0]]],
        "logprob_token_ids": [[[7], [8]], [[4, 7]], [[9]], [[9]]],
    }
    found = from_trl(answer)
    assert [one.prompt_token_ids for one in found] == [[1, 2], [1, 2], [3], [3]]
    assert [one.logprobs for one in found] == [[-0.5, -1.0], [-2.0], [None], [-3.0]]
    rollout_func = {"prompt_ids": [[1], [2]], "completion_ids": [[7, 8], [9]], "logprobs": [[-1.0, 0.0], [-2.0]], "env_mask": [[1, 0], [1]]}
    assert [(one.logprobs, one.loss_mask) for one in from_trl(rollout_func)] == [([-1.0, 0.0], [1, 0]), ([-2.0], [1])]


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (trl(sampling_per_token_logps=None), "missing_logprobs"),
        (trl(prompt_mask=None), "missing_field"),
        (trl(completion_ids=None), "missing_token_ids"),
        (trl(completion_mask=[[0, 0, 0], [1, 1, 1]]), "masked_out"),
        (trl(completion_mask=[[1, 0, 1], [1, 1, 1]]), "invalid_padding"),
        (trl(prompt_mask=[[1, 1, 0], [1, 1, 1]]), "invalid_padding"),
        (trl(sampling_per_token_logps=[[-1.0], [-1.0]]), "length_mismatch"),
        ({"prompt_ids": [[1], [2]], "completion_ids": [[7]] * 3, "logprobs": [[-1.0]] * 3}, "length_mismatch"),
        ({"prompt_ids": [[1]], "completion_ids": [[7, 8]], "logprobs": [[-1.0]]}, "length_mismatch"),
        ({"prompt_ids": [[1]], "completion_ids": [[7]], "logprobs": [[[-1.0, -2.0]]]}, "missing_logprobs"),
        ({"prompt_ids": [[1]], "completion_ids": [[7]], "logprobs": [[[-1.0]]], "logprob_token_ids": [[[8]]]}, "missing_logprobs"),
    ],
)
def test_trl_batches_that_cannot_be_read(batch: Any, reason: str) -> None:
    with pytest.raises(ConversionError) as refused:
        from_trl(batch)
    assert refused.value.reason == reason


# slime


@dataclass
class Sample:
    tokens: list[int]
    response_length: int
    rollout_log_probs: Optional[list[float]]
    loss_mask: Optional[list[int]] = None
    weight_versions: list[str] = field(default_factory=list)
    index: Optional[int] = None
    group_index: Optional[int] = None

    class Status(Enum):
        COMPLETED = "completed"
        TRUNCATED = "truncated"
        ABORTED = "aborted"

    status: Status = Status.COMPLETED

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "status": self.status.value}


def test_slime() -> None:
    one = Sample([1, 2, 7, 8, 9], 3, [-0.5, 0.0, -1.0], [1, 0, 1], ["7", "7"], index=12)
    two = Sample([1, 7], 1, [-0.25], status=Sample.Status.TRUNCATED)
    for samples in ([one, two], [[one], [two]], [one.to_dict(), two.to_dict()]):
        a, b = from_slime(samples)
        assert (a.prompt_token_ids, a.completion_token_ids, a.logprobs, a.loss_mask) == ([1, 2], [7, 8, 9], [-0.5, 0.0, -1.0], [1, 0, 1])
        assert (a.id, a.policy_version, a.finish_reason) == ("12", "7", "stop")
        assert (b.id, b.policy_version, b.finish_reason, b.loss_mask) == (None, None, "length", None)
    assert from_slime(one)[0].id == "12"
    mixed = Sample([1, 7], 1, [-0.25], weight_versions=["6", "7"])
    assert from_slime(mixed, policy_version="7")[0].policy_version == "7"


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample([1, 7], 1, None), "missing_logprobs"),
        (Sample([1, 7], 1, [-1.0, -2.0]), "length_mismatch"),
        (Sample([1, 7], 1, [-1.0], [1, 1]), "length_mismatch"),
        (Sample([1, 7], 3, [-1.0] * 3), "length_mismatch"),
        (Sample([1, 7], -1, []), "length_mismatch"),
        (Sample([1, 7], 1, [-1.0], [2]), "invalid_mask"),
        (Sample([1, 7], 1, [-1.0], weight_versions=["6", "7"]), "several_weight_versions"),
    ],
)
def test_slime_samples_that_cannot_be_read(sample: Sample, reason: str) -> None:
    with pytest.raises(ConversionError) as refused:
        from_slime([sample])
    assert refused.value.reason == reason


# Through the client


def test_one_that_cannot_be_read_does_not_stop_the_others(scripted: Scripted) -> None:
    with Client(scripted.url, run="mixed", gil_share=1.0, linger=0.0) as plumbline:
        good = CompletionOutput(0, [7], positions({7: -1.0}))
        assert plumbline.submit_vllm([RequestOutput("a", [1], [good, CompletionOutput(1, [7], None)]), RequestOutput("b", [1], [good])])
        plumbline.submit_sglang([sglang_output([(-1.0, 7)]), sglang_output([(-1.0, 7)], prompt_tokens=3)], [1, 2])
        plumbline.submit_verl(verl(attention_mask=[VERL["attention_mask"][0], [1, 0, 1, 1, 1, 0, 0, 0, 0]]))
        plumbline.submit_trl(trl(completion_mask=[[0, 0, 0], [1, 1, 1]]))
        plumbline.submit_slime([Sample([1, 7], 1, [-1.0]), Sample([1, 7], 1, None)])
        # All of it, when the batch as a whole is not what it should be.
        plumbline.submit_verl(verl(rollout_log_probs=None))
        assert plumbline.flush(60)
        stats = plumbline.stats()
    assert stats.accepted == 6, stats
    assert stats.dropped == {
        "missing_logprobs": 4,
        "contradictory_exchange": 1,
        "invalid_padding": 1,
        "masked_out": 1,
    }
    assert stats.submitted == 13
    assert stats.queued_bytes == 0


def test_nothing_is_converted_before_submit_returns(scripted: Scripted) -> None:
    """The rollout loop's thread only counts; reading the numbers is left to the background."""
    import threading

    here, readers = threading.get_ident(), set()

    class Watched(Tensor):
        def __getitem__(self, index: int) -> Tensor:
            readers.add(threading.get_ident())
            return super().__getitem__(index)

    with Client(scripted.url, run="lazy", gil_share=1.0, linger=0.0) as plumbline:
        plumbline.submit_verl(verl(Watched))
        assert plumbline.flush(60)
        assert plumbline.stats().accepted == 2
    assert readers
    assert here not in readers
