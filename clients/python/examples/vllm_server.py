"""A vLLM server: python vllm_server.py http://plumbline:8080 http://vllm:8000 MODEL."""

import json
import sys
import urllib.request

from plumbline_client import Client

if __name__ == "__main__":
    plumbline = Client(sys.argv[1], run="grpo-math", engine="vllm")
    body = {"model": sys.argv[3], "prompt": "Why is the sky blue?", "max_tokens": 64, "logprobs": 0, "return_token_ids": True}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(sys.argv[2] + "/v1/completions", json.dumps(body).encode(), headers)
    answer = json.load(urllib.request.urlopen(request))
    plumbline.submit_exchange(answer, body, path="/v1/completions")  # both bodies as they are
    plumbline.close()
    print(plumbline.stats())
