#!/usr/bin/env python3
"""What docs/gpu.md says was measured on a GPU: numbers, service, memory that runs out, speed. One JSON object a line.

    cargo build --features cuda --bin plumbline
    python benches/gpu.py --binary target/debug/plumbline [--device cuda] [--steps machine,numbers,families,selfcheck,verify,serve,memory,speed]

Needs a Python with torch and transformers (the one that runs this script) for `memory` and `speed`. Every step is tried, whatever became of the ones before it; the
exit code says whether all went well. With `--device cpu` it runs on any machine, without `memory`; `--small` makes `speed` quick.
"""

import argparse
import concurrent.futures
import itertools
import json
import math
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

from side_by_side import QWEN2_5_05B, workload

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
TINY = ROOT / "crates/plumbline/assets/tiny/policy-2"
OTHER = ROOT / "tests/fixtures/tiny/policy-1"
RECORDINGS = ("tiny-f32-raw", "tiny-bf16-raw", "tiny-bf16-stale", "tiny-f32-processed", "tiny-bf16-processed")
# Formats of the body and the head.
FORMATS = (("f32", "f32"), ("bf16", "f32"), ("f16", "f32"), ("bf16", "bf16"), ("f16", "f16"), ("f32", "bf16"), ("f64", "f64"))
SMALL = {**QWEN2_5_05B, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 256}


def say(step, **facts):
    print(json.dumps({"step": step, **facts}), flush=True)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def recording(name):
    shipped = ROOT / f"crates/plumbline/assets/recordings/{name}.jsonl"
    return lines(shipped if shipped.exists() else ROOT / f"tests/fixtures/recordings/{name}.jsonl")


def run(command, codes=(0,), timeout=120):
    # Elsewhere than in this repository, whose configuration file would be read.
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout, cwd=tempfile.gettempdir())
    if done.returncode not in codes:
        raise RuntimeError(f"exit code {done.returncode}: {' '.join(map(str, command))}\n{done.stderr[-1500:]}")
    return done


def bench(options, model, sequences, *arguments):
    command = [options.binary, "bench", "score", "--model", model, "--sequences", sequences, *arguments]
    return json.loads(run(command).stdout.splitlines()[-1])


def distance(ours, theirs):
    """Mean and largest |difference| of logprobs of the same tokens."""
    differences = [abs(a - b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)]
    if not all(map(math.isfinite, differences)):
        raise RuntimeError("a logprob is not finite")
    return {"tokens": len(differences), "mean": float(f"{sum(differences) / len(differences):.2e}"), "largest": float(f"{max(differences):.2e}")}


def machine(options, _):
    facts = {}
    if options.device != "cpu":
        asked = run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]).stdout
        facts["gpu"] = asked.strip()
    say("machine", **facts, cpus=os.cpu_count(), binary=run([options.binary, "--version"]).stdout.strip())


def logprobs(options, folder, device, dtype, head, *arguments):
    out = folder / "logprobs.jsonl"
    report = bench(options, TINY, folder / "recordings.jsonl", "--device", device, "--dtype", dtype, "--head-dtype", head, "--output", out, *arguments)
    return [line["logprobs"] for line in lines(out)], report


def numbers(options, folder):
    """The recordings against Hugging Face in f64, in every format; alone and in batches that share prompts; again."""
    recorded = [line for name in RECORDINGS for line in recording(name)]
    (folder / "recordings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in recorded))
    expected = [line["f64"] for name in RECORDINGS for line in lines(ROOT / f"tests/fixtures/recordings/{name}.ref.jsonl")]
    on_cpu, _ = logprobs(options, folder, "cpu", "f32", "f32")
    say("numbers", device="cpu", dtype="f32", head="f32", to_f64=distance(on_cpu, expected))
    for dtype, head in [pair for pair in FORMATS if options.formats in ("all", "-".join(pair))]:
        together, report = logprobs(options, folder, options.device, dtype, head)
        again, _ = logprobs(options, folder, options.device, dtype, head)
        # No batch has room for two sequences: each is scored alone, and none shares rows.
        alone, apart = logprobs(options, folder, options.device, dtype, head, "--max-batch-tokens", 1)
        if apart["batches"] != len(recorded):
            raise RuntimeError(f"{apart['batches']} batches of {len(recorded)} sequences")
        say(
            "numbers", device=report["device"], dtype=report["dtype"], head=report["head_dtype"], to_f64=distance(together, expected),
            to_cpu_f32=distance(together, on_cpu), alone_to_shared=distance(alone, together), same_again=again == together, batches=report["batches"],
        )


def families(options, folder):
    """The checkpoints of every family and feature (windows, soft-caps, latent attention, experts, ...) against Hugging Face in f64."""

    def one(path):
        expected = json.loads((path / "expected.json").read_text())["sequences"]
        sequences, out = folder / f"{path.name}.jsonl", folder / f"{path.name}-out.jsonl"
        made = [{"id": i, "prompt_token_ids": line["token_ids"][:1], "completion_token_ids": line["token_ids"][1:]} for i, line in enumerate(expected)]
        sequences.write_text("".join(json.dumps(line) + "\n" for line in made))
        bench(options, path, sequences, "--device", options.device, "--threads", 1, "--output", out)
        return path.name, distance([line["logprobs"] for line in lines(out)], [line["logprobs"] for line in expected])

    paths = sorted(path.parent for path in (ROOT / "tests/fixtures/models").glob("*/expected.json"))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = sorted(pool.map(one, paths), key=lambda result: -result[1]["largest"])
    say("families", device=options.device, dtype="f32", checkpoints=len(found), tokens=sum(result[1]["tokens"] for result in found), worst=found[:3])


def selfcheck(options, _):
    for dtype in ("f32", "bf16", "f16"):
        done = run([options.binary, "selfcheck", "--device", options.device, "--dtype", dtype, "--json"], codes=(0, 1, 3))
        check = json.loads(done.stdout)
        say("selfcheck", dtype=dtype, exit_code=done.returncode, device=check["device"], outcome=check["outcome"])


def verify(options, folder):
    """Verdicts, noise floor and diagnoses, whose variants run on the device too."""
    for name in ("tiny-bf16-raw", "tiny-bf16-stale", "tiny-f32-raw"):
        shipped = ROOT / f"crates/plumbline/assets/recordings/{name}.jsonl"
        path = shipped if shipped.exists() else ROOT / f"tests/fixtures/recordings/{name}.jsonl"
        for device in dict.fromkeys(("cpu", options.device)):
            out = folder / f"{name}-{device}"
            began = time.time()
            done = run([options.binary, "verify", path, "--engine", "vllm", "--device", device, "--out", out, "--no-token-table"], codes=(0, 1))
            report = json.loads((out / "report.json").read_text())
            engine = report["engines"][0]
            causes = [[f"{cause['cause']} {cause['confidence']:.3f}" for cause in found["causes"][:2]] for found in report["diagnosis"][:2]]
            say(
                "verify", recording=name, device=report["reference"]["device"], exit_code=done.returncode, seconds=round(time.time() - began, 1),
                verdict=engine["verdict"], mae=engine["metrics"]["mae_logprob"], floor=report["noise_floor"]["mae"], causes=causes, notes=report["notes"],
            )


def ask(url, body=None):
    request = urllib.request.Request(url, json.dumps(body).encode() if body is not None else None, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def serve(options, folder):
    """The service: it answers, says where it runs, measures its noise floor, and takes other weights and these again."""
    log = open(folder / "serve.log", "w+")
    command = [options.binary, "serve", "--listen", "127.0.0.1:0", "--device", options.device, "--model", TINY, "--policy-version", "2", "--weights-root", OTHER.parent]
    command += ["--weights-root", TINY.parent, "--selfcheck", "quick"]
    process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, cwd=folder, env={**os.environ, "NO_COLOR": "1"})
    try:
        for _ in range(600):
            found = re.search(r"listening\S* .*?(127\.0\.0\.1:\d+)", (folder / "serve.log").read_text())
            if found and ask(f"http://{found[1]}/readyz")[0] == 200:
                break
            if process.poll() is not None:
                raise RuntimeError("the service ended: " + (folder / "serve.log").read_text()[-1500:])
            time.sleep(0.1)
        else:
            raise RuntimeError("not ready: " + (folder / "serve.log").read_text()[-1500:])
        url = f"http://{found[1]}"
        keys = ("id", "prompt_token_ids", "completion_token_ids", "logprobs", "sampling", "logprobs_mode")
        sequences = [{key: line[key] for key in keys if key in line} for line in recording("tiny-bf16-stale")[:24]]
        body = {"run": "gpu", "engine": "vllm", "sequences": sequences, "include": ["diagnosis"]}

        def post(said):
            status, answer = ask(f"{url}/v1/verifications", body)
            answer = json.loads(answer)
            verdicts = [sequence.get("verdict") for sequence in answer.get("sequences", [])]
            say(
                "serve", what=said, status=status, reference=answer.get("reference"), problem=answer.get("detail"), mae=answer.get("metrics", {}).get("mae_logprob"),
                verdicts={str(verdict): verdicts.count(verdict) for verdict in set(map(str, verdicts))},
            )

        post("policy 2, on what policy 1 sampled")
        for version, path in (("1", OTHER), ("3", TINY)):
            status, answer = ask(f"{url}/update_weights_from_disk", {"model_path": str(path), "weight_version": version})
            say("serve", what=f"weights of {path.name} as version {version}", status=status, answer=answer[:200])
            post(f"version {version}")
        status, metrics = ask(f"{url}/metrics")
        wanted = re.compile(r"^plumbline_(reference_info|reference_weight_bytes|oom_backoffs_total|weight_swaps_total|noise_floor_(nats|state)|diagnosis_total\S+ [1-9])")
        say("serve", what="metrics", status=status, series=[line for line in metrics.splitlines() if wanted.match(line)])
        process.terminate()
        say("serve", what="SIGTERM", exit_code=process.wait(timeout=30))
    finally:
        process.kill()
        log.close()


HOLD = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(max(free - int(float(sys.argv[1]) * 2**30), 0), dtype=torch.uint8, device="cuda")
print(torch.cuda.mem_get_info()[0], flush=True)
sys.stdin.read()
"""


def memory(options, folder):
    """Batches that do not fit: another process leaves little of the GPU's memory. The scores must be those of a free GPU."""
    if options.device == "cpu":
        return say("memory", skipped="needs a GPU")
    (folder / "config.json").write_text(json.dumps(QWEN2_5_05B))
    path, out = folder / "memory.jsonl", folder / "memory-out.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in workload("32x2048", random.Random(3))))
    arguments = ("--random-init", "--device", options.device, "--max-batch-tokens", 65536, "--output", out)
    free = bench(options, folder, path, *arguments)
    expected = [line["logprobs"] for line in lines(out)]
    say("memory", left_gib="all", seconds=round(free["seconds"], 2), batches=free["batches"], oom_backoffs=free["oom_backoffs"])
    for left in options.left.split(","):
        holder = subprocess.Popen([sys.executable, "-c", HOLD, left], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            free_bytes = int(holder.stdout.readline())
            done = subprocess.run(
                [str(part) for part in (options.binary, "bench", "score", "--model", folder, "--sequences", path, *arguments)], capture_output=True, text=True, timeout=120,
            )
        finally:
            holder.stdin.close()
            holder.wait()
        if done.returncode == 0:
            report = json.loads(done.stdout.splitlines()[-1])
            found = [line["logprobs"] for line in lines(out)]
            say(
                "memory", left_gib=float(left), free_gib=round(free_bytes / 2**30, 2), seconds=round(report["seconds"], 2), batches=report["batches"],
                oom_backoffs=report["oom_backoffs"], to_free_gpu=distance(found, expected),
            )
        else:
            say("memory", left_gib=float(left), free_gib=round(free_bytes / 2**30, 2), exit_code=done.returncode, said=done.stderr.strip()[-400:])


def speed(options, folder):
    """Plumbline and Hugging Face transformers on random weights in the shape of Qwen2.5-0.5B: the fastest of several rounds of each."""
    (folder / "config.json").write_text(json.dumps(SMALL if options.small else QWEN2_5_05B))
    paths = {}
    for case in options.cases.split(","):
        paths[case] = folder / f"{case}.jsonl"
        paths[case].write_text("".join(json.dumps(line) + "\n" for line in workload(case, random.Random(7))))
    for dtype in ("f32", "bf16"):
        command = [sys.executable, HERE / "transformers_peer.py", "--random-init", "--model", folder, "--input", ",".join(map(str, paths.values())), "--dtype", dtype]
        command += ["--device", options.device, "--logprob", "naive,tail", "--batch", options.peer_batches, "--repeat", options.rounds]
        peers = [json.loads(line) for line in run(command).stdout.splitlines() if line.startswith("{")]
        binaries = options.others.split(",") if options.others else []
        for (case, path), binary in itertools.product(paths.items(), [options.binary, *binaries]):
            ours = bench(
                argparse.Namespace(binary=binary), folder, path, "--random-init", "--device", options.device, "--dtype", dtype, "--rounds", options.rounds, "--max-batch-tokens", 16384,
            )
            best = max((peer for peer in peers if peer["input"] == path.name), key=lambda peer: peer["tokens_per_s"])
            say(
                "speed", case=case, dtype=dtype, binary=pathlib.Path(binary).name, tokens_per_second=round(ours["tokens_per_second"]), peer=round(best["tokens_per_s"]),
                ratio=round(ours["tokens_per_second"] / best["tokens_per_s"], 2), peer_is=f"{best['logprob']} in batches of {best['batch']}", load_seconds=round(ours["load_seconds"], 1),
                forward=round(ours["forward_seconds"], 3), head=round(ours["head_seconds"], 3), rounds=[round(s, 3) for s in ours["seconds_of_rounds"]],
                peer_device_mb=best["peak_device_mb"],
            )


STEPS = {step.__name__: step for step in (machine, numbers, families, selfcheck, verify, serve, memory, speed)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/debug/plumbline"))
    parser.add_argument("--others", default="", help="more binaries, for speed")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--formats", default="all", help="of numbers: all, or one as BODY-HEAD")
    parser.add_argument("--cases", default="8x512,mix,groups")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--peer-batches", default="8,32")
    parser.add_argument("--left", default="4,3", help="GiB that are left in each try of memory")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    failed = []
    for name in options.steps.split(","):
        began = time.time()
        try:
            with tempfile.TemporaryDirectory() as folder:
                STEPS[name](options, pathlib.Path(folder))
        except Exception:  # Reported, and in the exit code: the other steps have a right to run.
            failed.append(name)
            say(name, error=traceback.format_exc()[-2500:])
        say("time", of=name, seconds=round(time.time() - began, 1))
    say("end", failed=failed)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
