"""vLLM in the same process: python vllm_offline.py http://plumbline:8080 MODEL."""

import sys

from vllm import LLM, SamplingParams

from plumbline_client import Client

if __name__ == "__main__":
    plumbline = Client(sys.argv[1], run="grpo-math", engine="vllm", worker="w0")
    llm = LLM(model=sys.argv[2])
    params = SamplingParams(n=4, max_tokens=256, logprobs=0)  # 0: the sampled token's logprob alone
    for step in range(3):
        outputs = llm.generate(["Why is the sky blue?", "What is 6 * 7?"], params)
        plumbline.submit_vllm(outputs, policy_version=str(step), sampling=params)
    plumbline.close()
    print(plumbline.stats())
