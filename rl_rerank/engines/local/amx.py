"""Intel's AMX, with which a processor multiplies bfloat16 matrices faster than float32 ones. Free of torch."""

import functools
import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables by which users keep oneDNN, which multiplies torch's matrices, from instructions of the processor."""


def is_used() -> bool:
    """Whether the processor has AMX for bfloat16 and oneDNN may use it.

    Other processors convert every number, which makes bfloat16 slower than float32.
    """
    limits = [os.environ[name].upper() for name in LIMITS if name in os.environ]
    return _is_listed() and all("AMX" in limit or limit in ("DEFAULT", "ALL") for limit in limits)


@functools.cache
def _is_listed() -> bool:
    """Whether Linux lists it among the processor's flags."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any("amx_bf16" in line.split() for line in lines if line.startswith("flags"))
