#!/usr/bin/env python3
"""The peer of side_by_side.py: scores token sequences with HF transformers; teacher forced, no cache, prompt+completion in one pass,
log-probability of every completion token gathered at a temperature. Prints one JSON object: tokens/s, peak RSS, ...

  transformers_peer.py --model DIR --dtype f32|bf16|f64 --input SEQS.jsonl [--batch N] [--attn sdpa|eager] [--logprob naive|tail|chunked]
              [--chunk ROWS] [--temperature T] [--device cpu|cuda] [--threads N] [--repeat R] [--output OUT.jsonl] [--random-init]

Input lines: {"id":..., "prompt_token_ids":[...], "completion_token_ids":[...]}.
logprob modes: naive    the model's full logits [B,T,V], log_softmax over all of it, gather (what most trainers do);
               tail     lm_head on the needed positions only, log_softmax over those rows at once;
               chunked  lm_head + logsumexp over ROWS positions at a time.
Sequences of a batch are right padded (causal, so the padding does not matter to the scored positions).
--input, --batch and --logprob may each be several, separated by commas: every combination is run, and prints its own object.
--random-init builds the model from DIR/config.json with random weights instead of loading DIR (for throughput only).
"""
import argparse, itertools, json, os, resource, sys, time

p = argparse.ArgumentParser()
p.add_argument("--model", required=True)
p.add_argument("--dtype", default="f32", choices=["f32", "bf16", "f64"])
p.add_argument("--input", required=True)
p.add_argument("--batch", default="8")
p.add_argument("--attn", default="sdpa")
p.add_argument("--logprob", default="chunked")
p.add_argument("--chunk", type=int, default=256)
p.add_argument("--temperature", type=float, default=1.0)
p.add_argument("--device", default="cpu")
p.add_argument("--threads", type=int, default=0)
p.add_argument("--repeat", type=int, default=1)
p.add_argument("--limit", type=int, default=0)
p.add_argument("--output")
p.add_argument("--random-init", action="store_true")
a = p.parse_args()
if a.threads:
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM
if a.threads:
    torch.set_num_threads(a.threads)
DT = {"f32": torch.float32, "bf16": torch.bfloat16, "f64": torch.float64}[a.dtype]

def rss():
    with open("/proc/self/status") as f:
        for l in f:
            if l.startswith("VmRSS"):
                return int(l.split()[1]) * 1024

t0 = time.time()
if a.random_init:
    cfg = AutoConfig.from_pretrained(a.model)
    torch.manual_seed(0)
    torch.set_default_dtype(DT)
    m = AutoModelForCausalLM.from_config(cfg, attn_implementation=a.attn, dtype=DT)
    torch.set_default_dtype(torch.float32)
else:
    m = AutoModelForCausalLM.from_pretrained(a.model, dtype=DT, attn_implementation=a.attn)
m.eval().to(a.device)
load_s = time.time() - t0
rss_loaded = rss()
up = torch.float64 if a.dtype == "f64" else torch.float32
head = m.get_output_embeddings()
cap = getattr(m.config, "final_logit_softcapping", None)

def measure(path, size, mode):
    seqs = []
    with open(path) as f:
        for l in f:
            if l.strip():
                d = json.loads(l)
                seqs.append((d.get("id"), d["prompt_token_ids"], d["completion_token_ids"]))
    if a.limit:
        seqs = seqs[: a.limit]
    order = sorted(range(len(seqs)), key=lambda i: len(seqs[i][1]) + len(seqs[i][2]))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    @torch.inference_mode()
    def score(idx):
        L = max(len(seqs[i][1]) + len(seqs[i][2]) for i in idx)
        ids = torch.zeros(len(idx), L, dtype=torch.long)
        for r, i in enumerate(idx):
            s = seqs[i][1] + seqs[i][2]
            ids[r, : len(s)] = torch.tensor(s)
        ids = ids.to(a.device)
        res = [None] * len(idx)
        if mode == "naive":
            lg = m(input_ids=ids, use_cache=False).logits.to(up) / a.temperature
            lp = torch.log_softmax(lg, -1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
            for r, i in enumerate(idx):
                n0 = max(len(seqs[i][1]), 1)
                res[r] = lp[r, n0 - 1 : len(seqs[i][1]) + len(seqs[i][2]) - 1].tolist()
            return res
        h = m.base_model(input_ids=ids, use_cache=False).last_hidden_state
        rows, tg, cnt = [], [], []
        for r, i in enumerate(idx):
            n0 = max(len(seqs[i][1]), 1)
            n = len(seqs[i][1]) + len(seqs[i][2])
            rows.append(h[r, n0 - 1 : n - 1])
            tg.append(ids[r, n0:n])
            cnt.append(n - n0)
        rows, tg = torch.cat(rows), torch.cat(tg)
        out = torch.empty(len(tg), dtype=up, device=a.device)
        step = len(tg) if mode == "tail" else a.chunk
        for k in range(0, len(tg), step):
            lg = head(rows[k : k + step]).to(up)
            sc = getattr(m.config, "logits_scaling", None)
            if sc: lg = lg / sc
            if cap: lg = torch.tanh(lg / cap) * cap
            lg /= a.temperature
            out[k : k + step] = lg.gather(-1, tg[k : k + step, None])[:, 0] - torch.logsumexp(lg, -1)
        return [x.tolist() for x in out.split(cnt)]

    score(batches[0][:1])  # warm up
    results = {}
    times, cpu = [], []
    for _ in range(a.repeat):
        t, c0 = time.time(), time.process_time()
        for b in batches:
            for i, r in zip(b, score(b)):
                results[i] = r
        times.append(time.time() - t)
        cpu.append(time.process_time() - c0)
    tot = sum(len(p_) + len(c) for _, p_, c in seqs)
    comp = sum(len(c) for _, _, c in seqs)
    best = min(times)
    if a.output:
        with open(a.output, "w") as f:
            for i in range(len(seqs)):
                f.write(json.dumps({"id": seqs[i][0], "logprobs": results[i]}) + "\n")
    print(json.dumps({
        "input": os.path.basename(path), "peak_device_mb": torch.cuda.max_memory_allocated() >> 20 if a.device != "cpu" else None,
        "tokens_per_s": round(tot / best, 1), "completion_tokens_per_s": round(comp / best, 1),
        "tokens": tot, "completion_tokens": comp, "sequences": len(seqs), "seconds": [round(x, 3) for x in times], "cpu_seconds": [round(x, 3) for x in cpu], "load_avg": os.getloadavg()[0],
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "rss_after_load_mb": round(rss_loaded / 2**20, 1), "load_s": round(load_s, 2),
        "dtype": a.dtype, "device": a.device, "attn": a.attn, "batch": size, "logprob": mode, "chunk": a.chunk,
        "threads": torch.get_num_threads(), "torch": torch.__version__, "transformers": transformers.__version__,
        "params": sum(x.numel() for x in m.parameters())}))


for mode in a.logprob.split(","):
    if mode not in ("naive", "tail", "chunked"):
        sys.exit(f"error: --logprob {mode}: naive, tail or chunked")
for path, size, mode in itertools.product(a.input.split(","), map(int, a.batch.split(",")), a.logprob.split(",")):
    measure(path, size, mode)
