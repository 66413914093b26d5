"""slime: --rollout-function-path slime_rollout.generate_rollout shows every sample that slime's own rollout brings back."""

from typing import Any

from slime.rollout.sglang_rollout import generate_rollout as sample

from plumbline_client import Client

PLUMBLINE = Client("http://plumbline:8080", run="glm-rl", engine="sglang")


def generate_rollout(args: Any, rollout_id: int, data_source: Any, evaluation: bool = False) -> Any:
    output = sample(args, rollout_id, data_source, evaluation=evaluation)
    if not evaluation:
        groups = getattr(output, "samples", output)
        PLUMBLINE.submit_slime(groups, sampling={"temperature": args.rollout_temperature})
    return output
