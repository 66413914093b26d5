"""Engines' and trainers' own objects as rollouts. Nothing of them is imported: objects are read by their attributes."""

from .sglang import from_sglang
from .slime import from_slime
from .trl import from_trl
from .verl import from_verl
from .vllm import from_vllm

__all__ = ["from_sglang", "from_slime", "from_trl", "from_verl", "from_vllm"]
