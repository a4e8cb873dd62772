"""Cards by name, and the memory that CUDA reports for them. Free of torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

CARDS: Mapping[str, float] = {
    "a10g-24g": 22.0,
    "a100-40g": 39.4,
    "a100-80g": 79.1,
    "b200-180g": 178.3,
    "h100-80g": 79.1,
    "h200-141g": 139.7,
    "l4-24g": 22.0,
    "l40s-48g": 44.4,
    "rtx3090-24g": 23.6,
    "rtx4090-24g": 23.5,
}
"""Name -> GiB that torch.cuda.get_device_properties reports: less than the name says, in other units and after the
driver and error correction have taken their share."""
CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Hardware:
    """The cards of one machine."""

    count: int
    """Processes that each have a card."""
    card: str
    gib: float
    """Memory of a card; on the CPU of a process."""

    @property
    def is_cuda(self) -> bool:
        return self.card != CPU

    def __str__(self) -> str:
        return f"{self.count} x {self.card} ({self.gib:.1f} GiB each)"


def parse(text: str) -> Hardware:
    """Read `hardware=NxCARD-GBg`, such as 8xh100-80g, a100-40g, 2xcpu-8g or cpu.

    The memory of a `cpu` without GB is this machine's, divided by N.

    Raises:
        ValueError: for another form, or a card that is not in the table.
    """
    match = re.fullmatch(r"(?:([1-9]\d*)x)?([a-z0-9-]+?)(?:-([1-9]\d*)g)?", text.lower())
    if match is None:
        raise ValueError(f"hardware={text!r} must be NxCARD-GBg, such as 8xh100-80g, or {CPU}")
    count, card, gigabytes = int(match[1] or 1), match[2], match[3]
    if card == CPU:
        here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 / count
        return Hardware(count, CPU, here if gigabytes is None else int(gigabytes) * 1e9 / 2**30)
    name = card if gigabytes is None else f"{card}-{gigabytes}g"
    if name not in CARDS:
        raise ValueError(
            f"hardware={text!r}: there is no card {name!r} in the table; known are {', '.join(CARDS)}, {CPU}"
        )
    return Hardware(count, name, CARDS[name])
