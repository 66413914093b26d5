"""SGLang's engine: python sglang_engine.py http://plumbline:8080 MODEL."""

import sys

import sglang

from plumbline_client import Client

if __name__ == "__main__":
    plumbline = Client(sys.argv[1], run="grpo-math", engine="sglang")
    engine = sglang.Engine(model_path=sys.argv[2])
    prompts = [[1, 2036, 201], [1, 560, 270]]
    sampling = {"max_new_tokens": 64, "temperature": 1.0, "n": 4}
    outputs = engine.generate(input_ids=prompts, sampling_params=sampling, return_logprob=True)
    plumbline.submit_sglang(outputs, prompts, sampling={"temperature": 1.0})  # versions are read from the outputs
    plumbline.close()
    print(plumbline.stats())
