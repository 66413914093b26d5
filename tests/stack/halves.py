"""Recording rules over two replicas that saw a half each, against one replica that saw everything."""

import datetime
import json
import math
import re
import time

from services import REPOSITORY, Failure, get, post, until

FIELDS = ("id", "prompt_token_ids", "completion_token_ids", "logprobs", "sampling", "logprobs_mode", "finish_reason")
# Not the same on all: what the floor expects of a token depends on when each replica measured it, and how many suspicious sequences
# are diagnosed for which nobody asked depends on the time that scoring leaves.
OWN_TO_A_REPLICA = ("noise_floor", "diagnosis")
TOLERANCE = 1e-9


def recorded():
    """Sequences of a real engine, a healthy and a stale one."""
    sequences = []
    for name in ("tiny-bf16-raw", "tiny-bf16-stale"):
        text = (REPOSITORY / f"crates/plumbline/assets/recordings/{name}.jsonl").read_text()
        for line in text.splitlines():
            record = json.loads(line)
            sequence = {field: record[field] for field in FIELDS if field in record}
            sequences.append(sequence | {"id": f"{name}-{len(sequences)}"})
    return sequences


def send(url, run, sequences):
    tokens = 0
    for start in range(0, len(sequences), 16):
        answer = post(f"{url}/v1/verifications", {"run": run, "engine": "vllm", "sequences": sequences[start : start + 16]})
        tokens += answer["metrics"]["tokens"]
    return tokens


def by_labels(samples, run):
    own = (sample for sample in samples if sample["metric"]["run"] == run)
    return {
        tuple(sorted((name, value) for name, value in sample["metric"].items() if name != "run")): float(sample["value"][1])
        for sample in own
    }


def close(one, other, tolerance=TOLERANCE):
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance * 1e-3)


def exposed(url, run):
    """A replica's own numbers of a run: name (with labels other than run, engine, model_name) to value."""
    numbers = {}
    for line in get(f"{url}/metrics").splitlines():
        if f'run="{run}"' in line:
            series, _, value = line.rpartition(" ")
            numbers[re.sub(r'(engine|model_name|run)="[^"]*",?', "", series).replace("{}", "").replace(",}", "}")] = float(value)
    return numbers


def check(prometheus, first, second, whole):
    sequences = recorded()
    # Interleaved, so that both halves hold some of each kind, and of different size.
    tokens = send(first, "halves", sequences[::3]) + send(second, "halves", sequences[1::3] + sequences[2::3])
    if send(whole, "whole", sequences) != tokens:
        raise Failure("the replicas did not compare the same tokens")
    count = 'run_engine_model:plumbline_tokens_scored:increase5m{{run="{}"}}'
    both = lambda: all(prometheus.number(count.format(run)) == tokens for run in ("halves", "whole"))
    until(f"rules see all {tokens} tokens of both runs", both, patience=60)
    # What was seen may have been half of an evaluation: rules after the first come later.
    until("all rules were evaluated since", evaluated_after(prometheus, time.time()), patience=60)
    samples = prometheus.instant('{__name__=~"run_engine_model.*5m", run=~"halves|whole"}')
    halves, all_ = by_labels(samples, "halves"), by_labels(samples, "whole")
    if halves.keys() != all_.keys() or len(halves) < 150:
        raise Failure(f"{len(halves)} and {len(all_)} series, at least 150 are expected; only in one: {sorted(halves.keys() ^ all_.keys())[:5]}")
    is_own = lambda labels: any(part in dict(labels)["__name__"] for part in OWN_TO_A_REPLICA)
    compared = {labels: value for labels, value in halves.items() if not is_own(labels)}
    wrong = [
        f"{dict(labels)}: {value} of two replicas, {all_[labels]} of one"
        for labels, value in compared.items()
        if not (close(value, all_[labels]) or math.isnan(value) and math.isnan(all_[labels]))
    ]
    a, b = exposed(first, "halves"), exposed(second, "halves")
    pooled = lambda name: a[f"plumbline_{name}_total"] + b[f"plumbline_{name}_total"]
    expected = {
        "noise_floor_multiple:window5m": pooled("noise_floor_abs_delta_sum") / pooled("noise_floor_expected_sum"),
        "noise_floor_nats:window5m": pooled("noise_floor_expected_sum") / pooled("noise_floor_tokens"),
        "noise_floor_coverage_ratio:window5m": pooled("noise_floor_tokens") / tokens,
    }
    for name, value in expected.items():
        got = prometheus.number(f'run_engine_model:plumbline_{name}{{run="halves"}}')
        if got is None or not close(got, value):
            wrong.append(f"{name}: {got}, the two replicas' own sums say {value}")
    wrong += gauges(prometheus, whole)
    if wrong:
        raise Failure("\n".join(wrong))
    print(f"  {len(compared)} series of two replicas are those of one, to {TOLERANCE}", flush=True)


def evaluated_after(prometheus, moment):
    def last():
        [group] = [group for group in prometheus.ask("rules")["groups"] if group["name"] == "plumbline-window-5m"]
        at = datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", group["lastEvaluation"]).replace("Z", "+00:00"))
        # Without its fraction, which is anything from 0 to 9 digits long.
        return at.timestamp() > moment

    return last


def gauges(prometheus, whole):
    """The gauges of the replica that saw everything, which computes them in another way, against the rules."""
    own, wrong = exposed(whole, "whole"), []
    names = """logprob_mae_nats logprob_rmse_nats logprob_pearson prob_mae prob_pearson log_ratio_mean_nats mult_prob_error
        importance_ratio_mean ess_ratio""".split()
    pairs = [(f"plumbline_{name}", f'run_engine_model:plumbline_{name}:window5m{{run="whole"}}') for name in names]
    for estimator in ("k1", "k2", "k3", "reverse_k3"):
        rule = f'run_engine_model:plumbline_kl_nats:window5m{{run="whole", estimator="{estimator}"}}'
        pairs.append((f'plumbline_kl_nats{{estimator="{estimator}"}}', rule))
    for gauge, rule in pairs:
        value = prometheus.number(rule)
        if gauge not in own or value is None or not close(own[gauge], value):
            wrong.append(f"{gauge} is {own.get(gauge)}, {rule} is {value}")
    return wrong
