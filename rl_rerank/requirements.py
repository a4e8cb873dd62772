"""What installs the packages that rl-rerank goes without until they are needed."""

from __future__ import annotations

TRAIN = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "gguf",
    "safetensors",
    "wandb",
    "tensorboard",
)
EXTRAS = {
    **dict.fromkeys(TRAIN, "train"),
    "deepspeed": "deepspeed",
    "vllm": "vllm",
    "httpx2": "openai",
    "tenacity": "openai",
    "sentence_transformers": "cross-encoder",
    "ir_datasets": "ir-datasets",
    "ray": "ray",
}
"""Package -> the extra of rl-rerank that installs it."""
