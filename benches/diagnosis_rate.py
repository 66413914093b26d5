#!/usr/bin/env python3
"""What the noise floor and the diagnosis cost healthy traffic: the rate over HTTP with both and with neither.

    cargo build --release
    python benches/diagnosis_rate.py [--rounds 3] [--threads 2] [--clients 4] [--groups 8]

Needs a Python with torch and transformers, as http_rate.py, and does the same work: RL groups, prompts of 512 tokens with 8 completions of 128. The engine's logprobs
are the reference's own, so every verdict is `consistent`. The noise floor is measured while the requests run. The two servers take turns; the table has every round.
"""

import json
import os
import pathlib
import random
import tempfile

from http_rate import arguments, make_checkpoint, over_http, start
from side_by_side import groups, run

NEITHER = {"PLUMBLINE_NOISE_FLOOR_TOKENS": "0", "PLUMBLINE_DIAGNOSIS_TOKENS_PER_MINUTE": "0"}


def main():
    options = arguments(__doc__)
    lines = groups(random.Random(7), options.groups, 512, 8, 128)
    tokens = sum(len(line["prompt_token_ids"]) + len(line["completion_token_ids"]) for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make_checkpoint(folder)
        path, scores = folder / "groups.jsonl", folder / "scores.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run([options.binary, "bench", "score", "--model", folder, "--sequences", path, "--threads", str(options.threads), "--output", scores])
        logprobs = {line["id"]: line["logprobs"] for line in map(json.loads, scores.read_text().splitlines())}
        requests = []
        for group in range(options.groups):
            members = [line | {"logprobs": logprobs[line["id"]]} for line in lines[8 * group : 8 * group + 8]]
            requests.append(json.dumps({"run": "bench", "engine": "vllm", "sequences": members}).encode())
        print("| with neither tok/s | with both tok/s | with / without | load |\n|---|---|---|---|", flush=True)
        for _ in range(options.rounds):
            rates = []
            for settings in (NEITHER, {}):
                server, url = start(options, folder, settings)
                try:
                    rates.append(tokens / over_http(options, url, requests))
                finally:
                    server.terminate()
                    server.communicate()
            print(f"| {rates[0]:.1f} | {rates[1]:.1f} | {rates[1] / rates[0]:.3f} | {os.getloadavg()[0]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
