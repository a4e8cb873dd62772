"""What a paradigm is: prompts for training, a parser, and a strategy for inference."""

from __future__ import annotations

import random
from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Protocol, TypeAlias

from rl_rerank.types import Completion, Judgment, Prompt, Ranking, RankingExample

Strategy: TypeAlias = Generator[list[Prompt], list[Judgment], Ranking]
"""Yields rounds of prompts that may be answered together, is sent one judgment a prompt, returns the ranking."""


class Paradigm(Protocol):
    """One way of asking. Implementations are frozen dataclasses whose fields are its parameters.

    Five further attributes are optional. `prompts_per_query` is how many training prompts an example gives at most,
    where it may be more than one. `score_scale` says what its scores are, where one document's score does not
    depend on the others': `log_odds`, or `points` from 0 up. `members` maps the names that prompts of its strategy may
    bear to the paradigms that read their answers. `list_scores` says how one forward scores a list: `documents`, a
    prompt for each document, whose score is the difference between the logits of its two continuations, or
    `identifiers`, one prompt, in which the i-th continuation's logit is the score of the i-th document. `choices` takes
    a prompt and gives all the answers that it may have, where these are few and no reasoning comes before them.
    """

    name: str

    @property
    def max_completion_tokens(self) -> int:
        """How many tokens the longest well-formed answer may take."""
        ...

    @property
    def continuations(self) -> tuple[str, ...]:
        """What is scored at the answer position instead of generating at inference; empty for generating paradigms."""
        ...

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        """The question about these candidates of the example, shown in this order."""
        ...

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        """Training prompts, candidates shuffled by `rng`. Empty where the example cannot teach (one grade only)."""
        ...

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        """The well-formed answer that the example's labels call for."""
        ...

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        """Read a completion: strict takes the exact form only, lenient mends and lists what it mended. Never raises."""
        ...

    def strategy(self, example: RankingExample) -> Strategy:
        """Rank the example's candidates, given in the order to be shown. Does no I/O."""
        ...


def check_engine(paradigm: Paradigm, engine: str, capabilities: Collection[str]) -> None:
    """Refuse an engine that cannot do what a paradigm needs, before it is asked anything.

    A paradigm that reads the log-probabilities of generated tokens says so by an attribute `needs_logprobs`, one whose
    prompts hold answers to a form by `constrained`.

    Args:
        engine: what the engine is called in the error.
        capabilities: the engine's, such as `score` and `logprobs`.

    Raises:
        ValueError: if one is missing that the paradigm needs.
    """
    if getattr(paradigm, "constrained", False) and "constraint" not in capabilities:
        raise ValueError(
            f"the paradigm {paradigm.name!r} has constrained=true, and the engine {engine} cannot hold answers to a "
            "form; use hf, vllm, or a vLLM server with engine.args.tokenizer and --logits-processors "
            "rl_rerank.engines.local.vllm_mask:Hold, or constrained=false"
        )
    if "pair" in capabilities:
        if paradigm.name != "pointwise" or len(paradigm.continuations) != 2:
            raise ValueError(
                f"a cross-encoder scores a query with one document, which serves the paradigm 'pointwise' alone; got "
                f"{paradigm.name!r}"
            )
        return
    if paradigm.continuations and "score" not in capabilities:
        raise ValueError(
            f"the paradigm {paradigm.name!r} scores {' and '.join(map(repr, paradigm.continuations))} at the answer "
            f"position, which the engine {engine} cannot do; use hf or vllm, or a vLLM server with "
            "engine.args.tokenizer"
        )
    if getattr(paradigm, "needs_logprobs", False) and "logprobs" not in capabilities:
        raise ValueError(
            f"the paradigm {paradigm.name!r} weights answers by the log-probabilities of their tokens, which the "
            f"engine {engine} does not give; use hf or vllm, or a rule that needs none"
        )


def members(paradigm: Paradigm) -> Mapping[str, Paradigm]:
    """The paradigms that a strategy may ask with, by the name on their prompts."""
    return getattr(paradigm, "members", {paradigm.name: paradigm})


def prompts_per_query(paradigm: Paradigm) -> int:
    """How many training prompts an example gives at most."""
    return getattr(paradigm, "prompts_per_query", 1)


def as_written(paradigm: Paradigm) -> Paradigm:
    """The paradigm for answers of which only the text is known; itself where it reads nothing else."""
    return getattr(paradigm, "as_written", paradigm)


def list_scores(paradigm: Paradigm) -> str:
    """`documents` or `identifiers`, how one forward scores a list; empty where it does not."""
    return getattr(paradigm, "list_scores", "")


def has_choices(paradigm: Paradigm) -> bool:
    """Whether its prompts have but few answers, which `choices` gives."""
    return hasattr(paradigm, "choices") and not getattr(paradigm, "reasoning", False)


def score_scale(paradigm: Paradigm) -> str:
    """`log_odds`, `points`, or empty where a score means something only beside the others of its ranking."""
    return getattr(paradigm, "score_scale", "")
