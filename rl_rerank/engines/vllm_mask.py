"""Constraints inside vLLM: a logits processor that the engine builds in its own process, and what requests tell it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoTokenizer
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from rl_rerank import constraints
from rl_rerank.engines.mask import TokenMask
from rl_rerank.types import Constraint

KEY = "rl_rerank_constraint"


def extra_args(constraint: Constraint | None, end_id: int) -> dict[str, Any] | None:
    """What a request carries, in plain values: it may have to reach another process."""
    if constraint is None:
        return None
    assert dataclasses.is_dataclass(constraint)
    return {KEY: [type(constraint).__name__, dataclasses.asdict(constraint), end_id]}


class Hold(AdapterLogitsProcessor):
    """Leaves the tokens that a request's constraint allows next."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        model = vllm_config.model_config
        self.tokenizer = AutoTokenizer.from_pretrained(model.tokenizer, trust_remote_code=model.trust_remote_code)
        self.masks: dict[int, TokenMask] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(
        self, params: SamplingParams
    ) -> Callable[[list[int], torch.Tensor], torch.Tensor] | None:
        if (asked := (params.extra_args or {}).get(KEY)) is None:
            return None
        name, parameters, end_id = asked
        constraint: Constraint = getattr(constraints, name)(**parameters)
        mask = self.masks.setdefault(end_id, TokenMask(self.tokenizer, end_id))

        def hold(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
            allowed = list(mask.allowed(mask.text(output_ids, constraint), constraint))
            held = torch.full_like(logits, -torch.inf)
            held[allowed] = logits[allowed]
            return held

        return hold
