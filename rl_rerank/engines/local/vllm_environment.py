"""Environment settings before vLLM is imported or an engine starts. Variables that are already set win."""

import importlib
import importlib.util
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
        _give_llvmlite_a_dict()


def _give_llvmlite_a_dict() -> None:
    """When it starts on a CPU, vLLM looks into the `__dict__` of everything that is imported.

    llvmlite, which bm25s imports, has an object that takes any attribute's name for a function of its library.
    """
    if importlib.util.find_spec("llvmlite") is not None:
        importlib.import_module("llvmlite.binding.ffi").lib._fntab["__dict__"] = {}
