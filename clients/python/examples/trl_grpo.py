"""TRL: a GRPOTrainer that shows what vLLM sampled. Use it in place of GRPOTrainer, with use_vllm=True."""

from typing import Any

from trl import GRPOTrainer

from plumbline_client import Client

PLUMBLINE = Client("http://plumbline:8080", run="grpo-tldr", engine="vllm")


class WatchedTrainer(GRPOTrainer):  # type: ignore[misc]
    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        version, sampling = str(self.state.global_step), {"temperature": self.temperature}
        PLUMBLINE.submit_trl(batch, policy_version=version, sampling=sampling)
        return batch
