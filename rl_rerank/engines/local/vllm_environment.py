"""Environment settings before vLLM is imported or an engine starts. Variables that are already set win."""

import importlib
import importlib.util
import os

import torch


def apply() -> None:
    """Reduce logging, disable usage statistics; on CPU, run in this process with a small key-value cache."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if not torch.cuda.is_available():
        # A second process would bring a second thread pool to the same cores.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        _give_llvmlite_a_dict()


def _give_llvmlite_a_dict() -> None:
    """Give llvmlite's library object a `__dict__`, because vLLM on CPU reads that of all imported objects.

    That object, imported through bm25s, treats any attribute name as a function of its library.
    """
    if importlib.util.find_spec("llvmlite") is not None:
        importlib.import_module("llvmlite.binding.ffi").lib._fntab["__dict__"] = {}
