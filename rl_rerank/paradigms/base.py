"""What a paradigm is: prompts for training, a parser, and a strategy for inference."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from rl_rerank import registry
from rl_rerank.prompts.tags import DEFAULT, Tags
from rl_rerank.types import Completion, Judgment, Prompt, Ranking, RankingExample

if TYPE_CHECKING:
    from rl_rerank.prompts.rendering import Renderer

Strategy: TypeAlias = Generator[list[Prompt], list[Judgment], Ranking]
"""Yields rounds of prompts that may be answered together, is sent one judgment a prompt, returns the ranking."""


class Paradigm(Protocol):
    """One way of asking. Implementations are frozen dataclasses whose fields are its parameters; what is optional on
    them are the fields of `ParadigmTraits`, as attributes of the same names."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ParadigmTraits:
    """What a paradigm may say of itself by attributes of these names. `traits` reads them."""

    prompts_per_query: int = 1
    """Training prompts that an example gives, at most."""
    score_scale: str = ""
    """What a document's score is, where it is more than a place among the others: `log_odds` of relevance, or of being
    preferred to another document, or `points` from 0 up."""
    list_scores: str = ""
    """How one forward scores a list. `documents`: a prompt for each document, whose score is the difference between the
    logits of its two continuations. `identifiers`: one prompt, in which the logit of the i-th continuation's last token
    is the score of the i-th document, behind the tokens that all continuations begin with. Empty: it does not."""
    needs_logprobs: bool = False
    """Whether it reads the log-probabilities of generated tokens."""
    constrained: bool = False
    """Whether its prompts restrict answers to a form, which the engine has to enforce."""
    reasoning: bool = False
    """Whether reasoning comes before the answer."""
    think_open: bool = False
    """Whether the prompt itself opens the reasoning."""
    tags: Tags = DEFAULT
    """The tags around the reasoning and around the answer behind it."""
    choices: Callable[[Prompt], tuple[str, ...]] | None = None
    """Takes a prompt and gives all the answers that it may have, where these are few."""
    members: Mapping[str, Paradigm] | None = None
    """The names that prompts of its strategy may have -> the paradigms that read their answers."""
    as_written: Paradigm | None = None
    """The paradigm for answers of which only the text is known."""
    shown: str = "text"
    """What of documents its prompts show: `text`, `images` or `both`."""
    requires: tuple[str, ...] = ()
    """Packages that it needs beside those of rl-rerank itself."""

    @property
    def has_choices(self) -> bool:
        """Whether a prompt's answers can be listed."""
        return self.choices is not None and not self.reasoning


def traits(paradigm: Paradigm) -> ParadigmTraits:
    """What the paradigm says of itself."""
    return registry.traits(ParadigmTraits, paradigm)


def members(paradigm: Paradigm) -> Mapping[str, Paradigm]:
    """The paradigms that a strategy may ask with, by the name on their prompts."""
    return traits(paradigm).members or {paradigm.name: paradigm}


def as_written(paradigm: Paradigm) -> Paradigm:
    """The paradigm for answers of which only the text is known; itself where it reads nothing else."""
    return traits(paradigm).as_written or paradigm


def check_template(paradigm: Paradigm, renderer: Renderer) -> None:
    """Refuse a chat template under which answers would not stand where they are read, or not begin where targets do.

    Raises:
        ValueError: naming the template, the paradigm and the settings that help.
    """
    own = traits(paradigm)
    renderer.arguments(paradigm.name, own.reasoning)
    if own.reasoning and own.think_open and not renderer.opens_thought(paradigm.name):
        raise ValueError(
            f"paradigms.{paradigm.name}.params.think_open=true: answers begin inside a thought, which the chat "
            "template does not open at the end of prompts; leave think_open out"
        )


def check_engine(paradigm: Paradigm, engine: str, capabilities: Collection[str]) -> None:
    """Refuse an engine that cannot do what a paradigm needs, before it is asked anything.

    Args:
        engine: what the engine is called in the error.
        capabilities: the engine's, such as `score` and `logprobs`.

    Raises:
        ValueError: if one is missing that the paradigm needs.
    """
    if traits(paradigm).constrained and "constraint" not in capabilities:
        raise ValueError(
            f"the paradigm {paradigm.name!r} has constrained=true, and the engine {engine} cannot restrict "
            "answers to a form; use hf, vllm, or a vLLM server with engine.args.tokenizer and --logits-processors "
            "rl_rerank.engines.local.vllm_mask:ConstrainedDecoding, or constrained=false"
        )
    if traits(paradigm).shown != "text" and "images" not in capabilities:
        raise ValueError(
            f"the paradigm {paradigm.name!r} has shown={traits(paradigm).shown}, and the engine {engine} sees no "
            "images; use hf with a model that sees, or openai without engine.args.tokenizer, or shown=text"
        )
    if "pair" in capabilities:
        if paradigm.name == "pairwise" and len(paradigm.continuations) == 2 and "duo" in capabilities:
            return
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
    if traits(paradigm).needs_logprobs and "logprobs" not in capabilities:
        raise ValueError(
            f"the paradigm {paradigm.name!r} weights answers by the log-probabilities of their tokens, which the "
            f"engine {engine} does not give; use hf or vllm, or a rule that needs none"
        )
