"""verl: a trainer that shows each batch of rollouts. Set actor_rollout_ref.rollout.calculate_log_probs=True.

Use it in place of RayPPOTrainer in your main_ppo.py.
"""

from typing import Any

from verl.trainer.ppo.ray_trainer import RayPPOTrainer

from plumbline_client import Client

PLUMBLINE = Client("http://plumbline:8080", run="ppo-gsm8k", engine="vllm")


class WatchedTrainer(RayPPOTrainer):  # type: ignore[misc]
    def init_workers(self) -> None:
        super().init_workers()
        manager = self.async_rollout_manager
        generate = manager.generate_sequences

        def generate_and_show(prompts: Any, **options: Any) -> Any:
            batch = generate(prompts, **options)
            PLUMBLINE.submit_verl(batch, policy_version=str(self.global_steps - 1))
            return batch

        manager.generate_sequences = generate_and_show
