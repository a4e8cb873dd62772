"""Environment variables that vLLM reads when it is imported or when an engine starts. Values that are set win."""

from __future__ import annotations

import os

import torch


def apply() -> None:
    """Quiet, no usage statistics; on CPU in this process, with a small key-value cache."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if not torch.cuda.is_available():
        # A second process would bring a second thread pool to the same cores.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
