"""Texts that a model writes: what the steps that write queries and passages have in common."""

from collections.abc import Sequence

from rl_rerank.engines.base import Engine
from rl_rerank.paradigms.answers import find_answer
from rl_rerank.types import Message, Prompt, Sampling, Segment


def request(qid: str, system: str, *parts: Segment) -> Prompt:
    """A prompt that asks for a text."""
    messages = (Message("system", (Segment(system),)), Message("user", parts))
    return Prompt(qid, (), messages, "writing", reasoning=None)


def written(engine: Engine, prompts: Sequence[Prompt], sampling: Sampling) -> list[str]:
    """A text for each prompt, without what a model thinks before it; empty where there is none or it was cut off."""
    texts = []
    for [completion] in engine.generate(prompts, sampling) if prompts else ():
        text = find_answer(completion, reasoning=False, strict=False).text or ""
        texts.append(text.strip().strip('"').strip() if completion.finish_reason == "stop" else "")
    return texts
