"""Where completions are sampled: `stages.NAME.rollout`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from rl_rerank.training.memory.setup import Colocated

TRL_UTILISATION = 0.3
"""vLLM's share of a GPU where trl.vllm_gpu_memory_utilization is not given."""


@dataclass(kw_only=True)
class RolloutConfig:
    """What samples completions. The bare word `rollout=vllm` stands for `rollout={kind: vllm}`."""

    kind: str = "hf"
    """hf: transformers, in the training process; vllm: an engine in every training process; vllm_server: one that runs
    elsewhere (CUDA)."""

    has_shorthand: ClassVar[bool] = True

    @staticmethod
    def chosen(value: Any, place: str) -> type[RolloutConfig]:
        """The class of the rollouts that a mapping with `kind` describes."""
        kind = value.get("kind", "hf") if isinstance(value, Mapping) else None
        if kind not in KINDS:
            raise ValueError(f"{place}.kind must be one of {', '.join(KINDS)}; got {kind!r}")
        return KINDS[kind]

    @property
    def requires(self) -> Sequence[str]:
        """The packages that it needs."""
        return ()

    @property
    def uses_vllm(self) -> bool:
        """Whether vLLM samples, here or elsewhere."""
        return False

    def trl_arguments(self) -> dict[str, Any]:
        """Arguments of trl.GRPOConfig."""
        return {"use_vllm": False}

    def colocated(self, trl: Mapping[str, Any], context: int) -> Colocated | None:
        """The vLLM in the training processes; None if there is none.

        Args:
            trl: the stage's further fields of trl.GRPOConfig.
            context: tokens of the longest prompt with its completion.
        """
        return None


@dataclass(kw_only=True)
class HFRollout(RolloutConfig):
    """transformers, in the training process."""


@dataclass(kw_only=True)
class VLLMRollouts(RolloutConfig):
    """What both uses of vLLM share."""

    correction: Literal["token_truncate", "sequence_truncate", "token_mask", "sequence_mask"] = "token_truncate"
    """How a difference between vLLM and the trainer is corrected: token_truncate and sequence_truncate bound the
    importance ratio, token_mask and sequence_mask leave out what is beyond the bound."""
    correction_clip: float = 3.0
    """The bound of the importance ratio."""
    max_logprob_gap: float = 0.1
    """Stop where vLLM's log-probabilities of the sampled tokens differ from the trainer's by more than this, in nats
    and on average: the run is off its policy."""

    def __post_init__(self) -> None:
        if self.max_logprob_gap <= 0:
            raise ValueError(f"grpo stage: rollout.max_logprob_gap must be above 0; got {self.max_logprob_gap}")
        if not self.correction_clip > 1:
            raise ValueError(
                "grpo stage: rollout.correction_clip must be above 1, the ratio where vLLM and the trainer agree; got "
                f"{self.correction_clip}"
            )

    @property
    def uses_vllm(self) -> bool:
        return True

    def trl_arguments(self) -> dict[str, Any]:
        return {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_importance_sampling_correction": True,
            "vllm_importance_sampling_mode": self.correction,
            "vllm_importance_sampling_clip_max": self.correction_clip,
        }


@dataclass(kw_only=True)
class VLLMRollout(VLLMRollouts):
    """vLLM, in every training process."""

    kind: str = "vllm"
    args: dict[str, Any] = field(default_factory=dict)
    """Passed to vllm.LLM."""

    @property
    def requires(self) -> Sequence[str]:
        return ("vllm",)

    def colocated(self, trl: Mapping[str, Any], context: int) -> Colocated | None:
        share = self.args.get("gpu_memory_utilization", trl.get("vllm_gpu_memory_utilization", TRL_UTILISATION))
        return Colocated(
            utilisation=share,
            tensor_parallel=trl.get("vllm_tensor_parallel_size", 1),
            sleeps=trl.get("vllm_enable_sleep_mode", False),
            context=self.args.get("max_model_len", context),
        )


@dataclass(kw_only=True)
class VLLMServerRollout(VLLMRollouts):
    """A vLLM server that runs elsewhere."""

    kind: str = "vllm_server"
    address: str = "127.0.0.1:8000"
    """Host and port where launch/vllm_server.sh listens, or a whole address with https://."""

    def trl_arguments(self) -> dict[str, Any]:
        address = self.address if "://" in self.address else f"http://{self.address}"
        return {**super().trl_arguments(), "vllm_mode": "server", "vllm_server_base_url": address}


KINDS: dict[str, type[RolloutConfig]] = {"hf": HFRollout, "vllm": VLLMRollout, "vllm_server": VLLMServerRollout}
