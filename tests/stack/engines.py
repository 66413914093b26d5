"""Stands in for a vLLM and an SGLang server's /metrics, and for nothing else of them: their own series names, with made-up numbers that
move. Names: vLLM docs/design/metrics.md, SGLang docs/references/production_metrics.md."""

import http.server
import sys
import time

BEGAN = time.monotonic()
BUCKETS = [0.01, 0.05, 0.1, 0.5, 1.0]


def histogram(name, labels, count):
    within = [0.1, 0.5, 0.8, 0.95, 1.0]
    lines = [f"# TYPE {name} histogram"]
    lines += [f'{name}_bucket{{{labels},le="{bound}"}} {int(count * part)}' for bound, part in zip(BUCKETS, within)]
    return lines + [f'{name}_bucket{{{labels},le="+Inf"}} {count}', f"{name}_sum{{{labels}}} {count * 0.1}", f"{name}_count{{{labels}}} {count}"]


def page():
    seconds = time.monotonic() - BEGAN
    labels = 'model_name="plumbline-tiny"'
    gauges = {
        "vllm:num_requests_running": 4 + seconds % 3,
        "vllm:num_requests_waiting": seconds % 2,
        "vllm:kv_cache_usage_perc": 0.4,
        "sglang:num_running_reqs": 3,
        "sglang:num_queue_reqs": 1,
        "sglang:token_usage": 0.3,
        "sglang:cache_hit_rate": 0.8,
        "sglang:gen_throughput": 950.0,
    }
    counters = {
        "vllm:prompt_tokens_total": 900 * seconds,
        "vllm:generation_tokens_total": 1100 * seconds,
        "sglang:prompt_tokens_total": 800 * seconds,
        "sglang:generation_tokens_total": 950 * seconds,
    }
    lines = []
    for kind, series in (("gauge", gauges), ("counter", counters)):
        for name, value in series.items():
            lines += [f"# TYPE {name} {kind}", f"{name}{{{labels}}} {value}"]
    for name in ("vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds"):
        lines += histogram(name, labels, int(10 * seconds))
    return "\n".join(lines) + "\n"


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = page().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
