"""Completions about the documents a, b, c, ... of one query, read strictly as training does."""

from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.types import Candidate, Completion, Judgment, Prompt, RankingExample, Rollout, Status

LISTWISE = Listwise(window=None, reasoning=True)
GROUPWISE = Groupwise(size=20, reasoning=True)
SETWISE = Setwise(children=19, labels="numbers", reasoning=True)
GRADED = PointwiseGraded(reasoning=True)
POINTWISE = Pointwise(positive="1", negative="0")


def example(qrels, docids="abcde", **fields):
    return RankingExample("q", "query", tuple(Candidate(d, f"text {d}") for d in docids), qrels, **fields)


def said(paradigm, text, docids="abcde", finish_reason="stop"):
    """What the strict parser makes of a completion."""
    prompt = Prompt("q", tuple(docids), ())
    completion = Completion(text, finish_reason=finish_reason)
    return Rollout(prompt, completion, paradigm.parse(prompt, completion, strict=True))


def thought(answer):
    return f"<think>so</think><answer>{answer}</answer>"


def answer(paradigm, text, docids="abcde"):
    """A completion with reasoning and this answer."""
    return said(paradigm, thought(text), docids)


def scored(scores):
    """A rollout whose documents have these scores, in prompt order."""
    return Rollout(Prompt("q", tuple(scores), ()), Completion("..."), Judgment(Status.ok, scores))


def malformed(docids="abcde"):
    return Rollout(Prompt("q", tuple(docids), ()), Completion("?"), Judgment(Status.answer))
