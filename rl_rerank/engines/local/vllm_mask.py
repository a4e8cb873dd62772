"""Constraints inside vLLM: a logits processor that the engine builds in its own process.

On a server: `vllm serve MODEL --logits-processors rl_rerank.engines.local.vllm_mask:ConstrainedDecoding`, with this
package installed.
"""

import logging
from collections.abc import Callable

import torch
from transformers import AutoTokenizer
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from rl_rerank.engines import constraint_json
from rl_rerank.engines.local.token_mask import TokenMask

logger = logging.getLogger(__name__)


class ConstrainedDecoding(AdapterLogitsProcessor):
    """Masks all tokens that a request's constraint does not allow next."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        constraint_json.read(sampling_params.extra_args)

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
        if (asked := constraint_json.read(params.extra_args)) is None:
            return None
        constraint, end_id = asked
        if end_id >= len(self.tokenizer):  # an error here would end the engine
            logger.warning("a request's end token %s is none of this model's: its answer is not constrained", end_id)
            return None
        mask = self.masks.setdefault(end_id, TokenMask(self.tokenizer, end_id))

        def hold(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
            allowed = list(mask.allowed(mask.text(output_ids, constraint), constraint))
            left = torch.full_like(logits, -torch.inf)
            left[allowed] = logits[allowed]
            return left

        return hold
