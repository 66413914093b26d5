#!/usr/bin/env python3
"""The rate over HTTP against the offline rate of the same work: `plumbline serve` with concurrent clients, and `plumbline bench score`.

    cargo build --release
    python benches/http_rate.py [--rounds 3] [--threads 2] [--clients 4] [--groups 8]

Needs a Python with torch and transformers, which make a checkpoint in the shape of Qwen2.5-0.5B (1 GB in a temporary folder). The work is RL groups: prompts of 512 tokens
with 8 completions of 128; each request holds one group. Both programs take turns; the table has every round.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

from side_by_side import QWEN2_5_05B, groups, run

HERE = pathlib.Path(__file__).resolve().parent


def make_checkpoint(folder):
    (folder / "config.json").write_text(json.dumps(QWEN2_5_05B))
    script = (
        "import sys, torch; from transformers import AutoConfig, AutoModelForCausalLM; torch.manual_seed(0);"
        "AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1]), dtype=torch.bfloat16).save_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})


def start(options, folder, settings=None):
    server = subprocess.Popen(
        [options.binary, "serve", "--model", folder, "--listen", "127.0.0.1:0", "--threads", str(options.threads), "--log-format", "json"],
        stderr=subprocess.PIPE, text=True, cwd=folder, env=os.environ | (settings or {}),
    )
    for line in server.stderr:
        found = re.search(r'"address":"([^"]+)"', line)
        if found:
            url = f"http://{found[1]}"
            break
    else:
        sys.exit("error: the server did not start")
    while True:
        try:
            urllib.request.urlopen(f"{url}/readyz")
            return server, url
        except OSError:
            time.sleep(0.2)


def over_http(options, url, requests):
    def post(body):
        request = urllib.request.Request(f"{url}/v1/verifications", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            json.load(response)

    with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
        began = time.monotonic()
        list(pool.map(post, requests))
        return time.monotonic() - began


def arguments(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--binary", default=str(HERE.parent / "target/release/plumbline"))
    options = parser.parse_args()
    options.binary = str(pathlib.Path(options.binary).resolve())
    return options


def main():
    options = arguments(__doc__)
    lines = groups(random.Random(7), options.groups, 512, 8, 128)
    tokens = sum(len(line["prompt_token_ids"]) + len(line["completion_token_ids"]) for line in lines)
    requests = []
    for group in range(options.groups):
        members = [line | {"logprobs": [-1.5] * len(line["completion_token_ids"])} for line in lines[8 * group : 8 * group + 8]]
        requests.append(json.dumps({"run": "bench", "engine": "vllm", "sequences": members}).encode())
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make_checkpoint(folder)
        path = folder / "groups.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        print("| offline tok/s | HTTP tok/s | HTTP / offline | load |\n|---|---|---|---|", flush=True)
        for _ in range(options.rounds):
            offline = run([options.binary, "bench", "score", "--model", folder, "--sequences", path, "--threads", str(options.threads)])["tokens_per_second"]
            server, url = start(options, folder)
            try:
                rate = tokens / over_http(options, url, requests)
            finally:
                server.terminate()
                server.communicate()
            print(f"| {offline:.1f} | {rate:.1f} | {rate / offline:.3f} | {os.getloadavg()[0]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
