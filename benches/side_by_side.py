#!/usr/bin/env python3
"""Plumbline and HF transformers on the same sequences, in turn, and a table of both.

    cargo build --release
    python benches/side_by_side.py [--cases 8x512,mix,groups] [--rounds 2] [--threads 2] [--binary target/release/plumbline]

Needs a Python with torch and transformers (the one that runs this script). The model has random weights in the shape of Qwen2.5-0.5B, so nothing is downloaded; a
rate does not depend on the values. Every token with context is scored in `8x512` and `mix`, the completions in `groups` and in `long-N` (one sequence of N tokens, not
part of the default; Plumbline alone). In each round the programs run one after the other, so that a busy machine is busy for all of them; the table has the
median of the rounds. Rates count prompt and completion tokens.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
QWEN2_5_05B = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True, "rope_theta": 1000000.0,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "hidden_act": "silu", "bos_token_id": 151643, "eos_token_id": 151645,
    "use_sliding_window": False, "sliding_window": None, "torch_dtype": "float32",
}
PEERS = ("naive", "tail")


def ids(generator, count):
    return [generator.randrange(150_000) for _ in range(count)]


def all_scored(generator, lengths):
    """Sequences whose tokens are all scored but the first, which has no context."""
    return [{"id": f"s{i}", "prompt_token_ids": ids(generator, 1), "completion_token_ids": ids(generator, n - 1)} for i, n in enumerate(lengths)]


def groups(generator, prompts, prompt, members, completion):
    made = []
    for group in range(prompts):
        shared = ids(generator, prompt)
        for member in range(members):
            made.append({"id": f"g{group}m{member}", "prompt_token_ids": shared, "completion_token_ids": ids(generator, completion)})
    return made


def workload(case, generator):
    count, x, length = case.partition("x")
    if x and count.isdigit() and length.isdigit():
        return all_scored(generator, [int(length)] * int(count))
    if case == "mix":
        return all_scored(generator, [32, 1024, 48, 768, 64, 512, 96, 640, 128, 384, 160, 256, 192, 320, 224, 448])
    if case == "groups":
        return groups(generator, 4, 512, 8, 128)
    if case.startswith("long-"):
        return all_scored(generator, [int(case.removeprefix("long-"))])
    sys.exit(f"error: case {case} is not known")


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def plumbline(options, model, sequences):
    report = run([options.binary, "bench", "score", "--random-init", "--profile", "--model", model, "--sequences", sequences, "--threads", str(options.threads)])
    return {
        "rate": report["tokens_per_second"], "mb": (report["peak_rss_bytes"] - report["rss_after_load_bytes"]) / 2**20,
        "gemm": report["profile"]["gemm_share"], "seconds": report["seconds"],
    }


def transformers(options, model, sequences, logprob):
    report = run([
        sys.executable, HERE / "transformers_peer.py", "--random-init", "--model", model, "--input", sequences, "--dtype", "f32", "--threads", str(options.threads),
        "--logprob", logprob,
    ])
    return {"rate": report["tokens_per_s"], "mb": report["peak_rss_mb"] - report["rss_after_load_mb"]}


def median(rounds, name, key):
    return statistics.median(result[name][key] for result in rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="8x512,mix,groups")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", default=str(HERE.parent / "target/release/plumbline"))
    options = parser.parse_args()
    print("| case | Plumbline tok/s | naive tok/s | tail tok/s | ratio to the better | in GEMM | MiB above weights: Plumbline | naive | tail | load |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "config.json").write_text(json.dumps(QWEN2_5_05B))
        for case in options.cases.split(","):
            path = folder / f"{case}.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in workload(case, random.Random(7))))
            peers = () if case.startswith("long-") else PEERS
            rounds, ratios = [], []
            for _ in range(options.rounds):
                result = {"plumbline": plumbline(options, folder, path)}
                for peer in peers:
                    result[peer] = transformers(options, folder, path, peer)
                rounds.append(result)
                if peers:
                    ratios.append(result["plumbline"]["rate"] / max(result[peer]["rate"] for peer in peers))
            rate, mb = (lambda name: f"{median(rounds, name, 'rate'):.1f}"), (lambda name: f"{median(rounds, name, 'mb'):.0f}")
            shown = [rate(peer) if peer in peers else "-" for peer in PEERS]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else f"{median(rounds, 'plumbline', 'seconds'):.1f} s"
            memory = [mb(peer) if peer in peers else "-" for peer in PEERS]
            gemm = f"{100 * median(rounds, 'plumbline', 'gemm'):.1f} %"
            print(f"| {case} | {rate('plumbline')} | {' | '.join(shown)} | {ratio} | {gemm} | {mb('plumbline')} | {' | '.join(memory)} | {os.getloadavg()[0]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
