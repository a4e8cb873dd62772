"""Checks of a finished run: does the mechanism that a published system stands on do here what its paper claims?

A check is a frozen dataclass with the run's folder as its only argument, under `rl_rerank.check` in the entry points.
"""

from rl_rerank.mechanisms.base import Check, Finding, Run

__all__ = ["Check", "Finding", "Run"]
