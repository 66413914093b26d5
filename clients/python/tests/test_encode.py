"""JSON of items: exact, and refused where it cannot be."""

from __future__ import annotations

import array
import json
import math
from typing import Any

import numpy as np
import pytest

from plumbline_client import Client, ConversionError, Exchange, Rollout
from plumbline_client._encode import PIECE, encode, rough_size
from plumbline_client._http import Response
from support import rollout

CONFIG = Client("http://127.0.0.1:1", run="r")._config


def document(item: Any) -> Any:
    return json.loads(encode(item, "name", CONFIG).json)


@pytest.mark.parametrize("length", [1, 2, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
def test_numbers_arrive_bit_for_bit(length: int) -> None:
    logprobs = [-math.pi * (index + 1) / 7 for index in range(length)]
    logprobs[0] = float(np.float32(-2.5509891510009766))
    item = Rollout(list(range(length)), [2**32 - 1 - index for index in range(length)], logprobs, loss_mask=[1] * length)
    found = document(item)
    assert found == {
        "id": "name",
        "prompt_token_ids": item.prompt_token_ids,
        "completion_token_ids": item.completion_token_ids,
        "logprobs": logprobs,
        "loss_mask": [1] * length,
    }


def test_special_numbers_keep_their_meaning() -> None:
    found = encode(Rollout([], [1, 2, 3, 4], [math.nan, -math.inf, None, -9999.0]), "n", CONFIG).json
    assert b'"logprobs":[NaN,-Infinity,null,-9999.0]' in found


@pytest.mark.parametrize(
    "convert",
    [
        tuple,
        lambda values: array.array("d" if isinstance(values[0], float) else "q", values),
        lambda values: np.array(values),
        lambda values: np.array(values, dtype=np.float32 if isinstance(values[0], float) else np.int32),
        lambda values: [np.float64(value) if isinstance(value, float) else np.int64(value) for value in values],
        lambda values: [np.float32(value) if isinstance(value, float) else np.uint16(value) for value in values],
        lambda values: iter_only(values),
    ],
)
def test_tensors_arrays_and_their_scalars(convert: Any) -> None:
    found = document(Rollout(convert([5, 6]), convert([7, 8]), convert([-0.5, -1.25]), loss_mask=convert([0, 1])))
    assert (found["prompt_token_ids"], found["completion_token_ids"], found["logprobs"]) == ([5, 6], [7, 8], [-0.5, -1.25])
    assert found["loss_mask"] == [0, 1]


class iter_only:  # noqa: N801
    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __iter__(self) -> Any:
        return iter(self._values)


def test_every_field_goes_along() -> None:
    spans = [{"version": "1", "start": 0, "end": 1}]
    item = Rollout([1], [2], [-1.0], "i", [1], "stop", 1, {"top_k": 5}, "7", spans, "raw")
    assert document(item) == {
        "id": "i",
        "prompt_token_ids": [1],
        "completion_token_ids": [2],
        "logprobs": [-1.0],
        "loss_mask": [1],
        "finish_reason": "stop",
        "cached_tokens": 1,
        "sampling": {"top_k": 5},
        "policy_version": "7",
        "weight_versions": spans,
        "logprobs_mode": "raw",
    }


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (Rollout([1], [], []), "empty_completion"),
        (Rollout([1], [2, 3], [-1.0]), "length_mismatch"),
        (Rollout([1], [2], [-1.0], loss_mask=[]), "length_mismatch"),
        (Rollout([1], [2], -1.0), "invalid_type"),
        (Rollout([1], {"a": 1}, [-1.0]), "invalid_type"),
        (Rollout([1], np.int64(3), [-1.0]), "invalid_type"),
        (Rollout([1], [2], [-1.0], id=3.5), "invalid_type"),  # type: ignore[arg-type]
        (Rollout([1], [2], [-1.0], sampling=object()), "invalid_sampling"),
        (Rollout([1], [2], [-1.0], finish_reason={1, 2}), "not_serialisable"),  # type: ignore[arg-type]
        (Rollout([1], [2j], [-1.0]), "not_serialisable"),
        (Exchange({1: 2}), "not_serialisable"),
        (Exchange(b"\xff"), "not_serialisable"),
        (7, "invalid_type"),
    ],
)
def test_what_cannot_be_sent_is_named(item: Any, reason: str) -> None:
    with pytest.raises(ConversionError) as refused:
        encode(item, "name", CONFIG)
    assert refused.value.reason == reason


def test_bodies_of_engines_are_left_as_they_are() -> None:
    body = {
        "choices": [{"logprobs": {"content": [{"token": "\u00e9\u4e2d\ud83d", "logprob": -0.1, "n": None, "t": []}] * 300}}],
        "deep": [[[[1]]]],
    }
    nested: Any = "x"
    for _ in range(50):
        nested = {"inner": [nested]}
    body["nested"] = nested
    found = document(Exchange(body, {"prompt": list(range(1000)), "é": True}, path="/v1/completions"))
    assert found == {"id": "name", "path": "/v1/completions", "request": {"prompt": list(range(1000)), "é": True}, "response": body}
    assert document(Exchange(b"data: [DONE]\n\n"))["response"] == "data: [DONE]\n\n"
    assert document({"response": body, "x": 1}) == {"id": "name", "response": body, "x": 1}


def test_estimates_are_of_the_right_order() -> None:
    numbers = [-1.2345678901234567] * 700
    for item in (
        Rollout(list(range(100, 900)), list(range(10_000, 10_700)), numbers),
        {"prompt_token_ids": [1], "completion_token_ids": [2] * 700, "logprobs": numbers},
        Exchange({"choices": [{"token_ids": [5000] * 700, "logprobs": {"token_logprobs": numbers, "tokens": ["token_id:5000"] * 700}}]}),
        Exchange("data: {}\n\n" * 1000),
    ):
        real = len(encode(item, "n", CONFIG).json)
        assert real / 3 < rough_size(item) < real * 3
    assert rough_size(rollout()) > 0
    assert rough_size(object()) > 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("nan", 0.0), ("soon", None), ("1e9", 3600.0), ("inf", 3600.0), ("", None)],
)
def test_retry_after(value: str, expected: Any) -> None:
    assert Response(429, {"retry-after": value}, b"").retry_after() == expected


def test_retry_after_as_a_date() -> None:
    assert Response(429, {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, b"").retry_after() == 0.0
    assert Response(429, {"retry-after": "Fri, 31 Dec 2100 23:59:59 GMT"}, b"").retry_after() == 3600.0
    assert Response(429, {}, b"").retry_after() is None


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b'{"errors": 5}', b'{"errors": [1, null, {"pointer": 3}]}', b'{"code": null}'])
def test_errors_that_are_no_problem_documents(body: bytes) -> None:
    error = Response(502, {}, body).error()
    assert (error.status, error.code) == (502, "http_502")
