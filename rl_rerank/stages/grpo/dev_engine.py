"""Which engine answers dev queries while a grpo stage trains: `stages.NAME.eval_engine`. Free of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from rl_rerank.config import Config
from rl_rerank.paradigms.base import Paradigm, members, traits
from rl_rerank.stages.grpo.rollouts import VLLMRollout
from rl_rerank.stages.rerank.spec import RerankStage, reported_protocol

if TYPE_CHECKING:
    from rl_rerank.stages.grpo.spec import GRPOStage


def kind(name: str, stage: GRPOStage, config: Config, paradigm: Paradigm) -> Literal["hf", "vllm"]:
    """The engine that answers: the one that samples rollouts, if it can and `eval_engine` does not say otherwise.

    Raises:
        ValueError: if `eval_engine` asks for an engine that cannot.
    """
    if stage.eval_engine == "hf" or not stage.rollout.uses_vllm:
        return "hf"
    reason = obstacle(stage, config, paradigm, reported_protocol(config, name))
    if reason and stage.eval_engine == "rollout":
        raise ValueError(f"stages.{name}.eval_engine=rollout: {reason}; leave it out to rank dev queries with hf")
    return "hf" if reason else "vllm"


def obstacle(stage: GRPOStage, config: Config, paradigm: Paradigm, protocol: RerankStage) -> str:
    """Why the vLLM that samples rollouts cannot answer dev queries as an evaluation does; empty if it can."""
    if not isinstance(stage.rollout, VLLMRollout):
        return (
            f"rollout={stage.rollout.kind} is asked through trl's client, which has one seed and no constraint for all "
            "prompts of a call"
        )
    if "logits_processors" in stage.rollout.args:
        return "rollout.args.logits_processors would change the answers to dev queries"
    context = stage.rollout.args.get("max_model_len")
    if context is not None and context < (needed := longest_row(config, paradigm)):
        return (
            f"rollout.args.max_model_len={context} is below the {needed} tokens that a dev prompt and its answer may "
            "have"
        )
    most, given = most_continuations(paradigm), stage.rollout.args.get("max_logprobs", -1)
    if 0 <= given < most:
        return f"rollout.args.max_logprobs={given} is below the {most} continuations that {paradigm.name!r} scores"
    # trl needs this engine's log-probabilities after temperature and constraint; an evaluation reads those before.
    for one in members(paradigm).values():
        own = traits(one)
        if own.needs_logprobs and (own.constrained or protocol.retries):
            cause = "constrained=true" if own.constrained else f"retries={protocol.retries}"
            return (
                f"the paradigm {one.name!r} reads log-probabilities of its answers, and with {cause} the vLLM of "
                "rollouts gives others than the model's"
            )
    return ""


def longest_row(config: Config, paradigm: Paradigm) -> int:
    """Tokens of the longest prompt with its answer."""
    return config.model.max_prompt_tokens + max(one.max_completion_tokens for one in members(paradigm).values())


def most_continuations(paradigm: Paradigm) -> int:
    """The most continuations that a prompt is scored by; 0 where all answers are generated."""
    return max(len(one.continuations) for one in members(paradigm).values())


def borrowed_args(name: str, config: Config, paradigm: Paradigm) -> dict[str, Any]:
    """Arguments of vllm.LLM that its rollouts do not need and dev queries do. Imports vLLM."""
    from rl_rerank.engines.local import vllm

    return vllm.borrowed_args(
        longest_row(config, paradigm),
        continuations=most_continuations(paradigm),
        is_constrained=any(traits(one).constrained for one in members(paradigm).values()),
        is_seeded=reported_protocol(config, name).retries > 0,
    )


def describe(name: str, stage: GRPOStage, config: Config, paradigm: Paradigm) -> str:
    """Who answers dev queries, and why not the engine that samples rollouts, for the plan and the log."""
    if kind(name, stage, config, paradigm) == "vllm":
        return "dev queries: by the vLLM that samples rollouts"
    reason = "" if stage.eval_engine == "hf" else obstacle(stage, config, paradigm, reported_protocol(config, name))
    return f"dev queries: by transformers{': ' * bool(reason)}{reason}"
