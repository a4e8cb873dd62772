"""A teacher writes the reasoning to an answer that it is shown."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.paradigms.base import traits
from rl_rerank.prompts.messages import ours
from rl_rerank.synthesis.prompts import prompts
from rl_rerank.synthesis.rows import called_for
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Completion, Message, Prompt, RankingExample, Sampling, TeacherOutput
from rl_rerank_synth.teaching import digest, teacher


@dataclass(frozen=True)
class Reasons:
    """Shows the gold answer behind a training prompt and asks for the reasoning alone, which is put before it.

    The paradigm must have reasoning=true. ReasonRank and GroupRank let their teachers reason without sight of the
    answer, because one who has seen it refers to what the student cannot see; that is the step `rank` or `answers` with
    a filter. A text that holds one of the answer's tags is dropped, and counted as `malformed`.
    """

    paradigm: str = "listwise"
    engine: str = "model"
    """`model`, or one of the stage's engines; the labels cannot explain themselves."""
    max_tokens: int = 512
    temperature: float = 0.0

    @property
    def answers(self) -> str:
        return self.paradigm

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples for which a reasoning was written, with it."""
        paradigm = context.paradigm(self.paradigm)
        if not getattr(paradigm, "reasoning", False):
            raise ValueError(f"reasons: paradigms.{self.paradigm}.params.reasoning must be true")
        tags = traits(paradigm).tags
        batch = list(examples)
        asked: list[tuple[RankingExample, Prompt, str]] = []
        for example in batch:
            seen = called_for(example, paradigm)
            for prompt in prompts(seen, paradigm, context.stage.seed, 0):
                target = paradigm.target(seen, prompt)
                asked.append((example, prompt, target.rsplit(tags.think_end, 1)[1]))
        if not asked:
            return
        engine, who = teacher(context, self.engine, batch, paradigm)
        sampling = Sampling(self.max_tokens, self.temperature, seed=context.number)
        shown = [_with_sight(prompt, answer) for _, prompt, answer in asked]
        opening = "" if getattr(paradigm, "think_open", False) else tags.think_open
        written: dict[str, list[TeacherOutput]] = {}
        for (example, prompt, answer), seen, [completion] in zip(
            asked, shown, engine.generate(shown, sampling), strict=True
        ):
            text = f"{opening}{completion.text.strip()}{tags.think_end}{answer}"
            said = TeacherOutput(who, self.paradigm, prompt.docids, text, digest(seen))
            is_whole = completion.finish_reason == "stop" and completion.text.strip()
            has_tags = any(f"{name}>" in completion.text for name in (tags.thought, tags.answer))
            if is_whole and not has_tags and paradigm.parse(prompt, Completion(text), strict=True).is_ok:
                written.setdefault(example.qid, []).append(said)
            else:
                context.counts["malformed"] += 1
        for example in batch:
            if outputs := written.get(example.qid):
                said = {**example.provenance, context.name: f"{self.paradigm} by {who}, with sight of the answer"}
                yield replace(example, teachers=(*example.teachers, *outputs), provenance=said)


def _with_sight(prompt: Prompt, answer: str) -> Prompt:
    """The prompt, with the answer and what is asked instead behind it."""
    *others, last = prompt.messages
    told = (
        f"\nThe right answer is {answer} Do not answer. Write only the reasoning that leads to it from the query and "
        "the passages, and do not say that you were told."
    )
    return replace(prompt, messages=(*others, Message(last.role, (*last.segments, ours(told)))), constraint=None)
