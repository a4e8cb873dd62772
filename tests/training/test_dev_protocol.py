"""A model that ranks nothing has the dev value of a random order, however good the first stage is."""

import math
import random
import statistics

import pytest
from support.grpo_trainer import trainer

from rl_rerank import registry
from rl_rerank.engines.base import NO_USAGE, Capability
from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.metrics import ndcg
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking.methods import rank
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.training.loop import dev
from rl_rerank.types import Candidate, Completion, RankingExample

pytestmark = pytest.mark.slow

PARADIGMS = {
    "listwise": {"window": 4, "stride": 2},
    "listwise-settled": {"window": 4, "settle": True},
    "groupwise": {"size": 4},
    "setwise": {"children": 2, "k": 6},
    "setwise-scoring": {"children": 2, "k": 6, "mode": "scoring"},
    "pairwise": {"method": "heapsort"},
    "pairwise-allpairs": {"method": "allpairs"},
    "pairwise-scoring": {"method": "sliding", "mode": "scoring"},
    "pointwise": {},
    "pointwise_graded": {},
    "first_token": {"window": 4},
}
DOCUMENTS = 6


def paradigm(kind):
    return registry.build("paradigm", kind.split("-")[0], PARADIGMS[kind])


def queries(count):
    """The first stage puts the only relevant document first; texts say nothing."""
    rng = random.Random(1)
    return [
        RankingExample(
            f"q{q}",
            f"question {q}",
            tuple(
                Candidate(f"q{q}d{d}", f"{rng.getrandbits(64)}", rank=d + 1, score=float(DOCUMENTS - d))
                for d in range(DOCUMENTS)
            ),
            {f"q{q}d0": 1},
        )
        for q in range(count)
    ]


def require_random(rankings, examples):
    """Both values have to be within three standard errors of a random order's."""
    values = [ndcg(ranking.docids, {f"{ranking.qid}d0": 1}, k=10) for ranking in rankings]
    expected = [dev.expected_ndcg(ranking, {f"{ranking.qid}d0": 1}) for ranking in rankings]
    anyhow = ndcg(dict.fromkeys(examples[0].docids, 0.0), examples[0].qrels, k=10)
    spread = statistics.pstdev(1 / math.log2(place + 2) for place in range(DOCUMENTS))
    error = spread / math.sqrt(len(examples))
    assert abs(statistics.fmean(values) - anyhow) < 3 * error
    assert abs(statistics.fmean(expected) - anyhow) < 3 * error
    assert anyhow + 3 * error < 1  # the first stage's value is far away


class Anyhow:
    """Answers in form without reading: the same score for every document, and the order shown for orders."""

    capabilities = frozenset(Capability) - {Capability.pair}
    usage = NO_USAGE

    def __init__(self, falling):
        self.falling = falling
        """Whether scores fall with the place in the prompt, instead of being equal."""

    def generate(self, prompts, sampling, on_completion=None):
        return [[Completion(self.answer(prompt))] for prompt in prompts]

    def score(self, prompts, continuations, on_completion=None):
        step = 0.1 if self.falling else 0.0
        return [
            Completion(
                "", finish_reason="score", continuations={c: -1.0 - step * i for i, c in enumerate(continuations)}
            )
            for _ in prompts
        ]

    def answer(self, prompt):
        n = len(prompt.docids)
        if prompt.paradigm == "listwise":
            return " > ".join(f"[{i}]" for i in range(1, n + 1))
        if prompt.paradigm == "groupwise":
            pairs = (f'"[{i}]": {10 - i if self.falling else 10}' for i in range(1, n + 1))
            return f"{{{', '.join(pairs)}}}"
        if prompt.paradigm == "pointwise_graded":
            return "7"
        return "A"


@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("kind", PARADIGMS)
def test_the_same_answer_always_is_worth_a_random_order(kind, falling):
    examples = queries(400)
    rankings, rollouts = rank(examples, paradigm(kind), Anyhow(falling), RerankStage(kind="rerank"))
    assert all(rollout.judgment.is_ok for rollout in rollouts)
    require_random(rankings, examples)


@pytest.mark.parametrize("kind", PARADIGMS)
def test_random_weights_are_worth_a_random_order(kind, tiny_model_dir, chatml_tokenizer):
    examples = queries(30)
    engine = HFEngine(tiny_model_dir, Renderer(chatml_tokenizer, max_prompt_tokens=400))
    rankings, _ = rank(examples, paradigm(kind), engine, RerankStage(kind="rerank"))
    require_random(rankings, examples)


def test_the_trainer_measures_the_same(tiny_model_dir, chatml_tokenizer, tmp_path):
    examples = queries(60)
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path)
    renderer, protocol = Renderer(chatml_tokenizer, max_prompt_tokens=400), RerankStage(kind="rerank")
    qrels = {example.qid: example.qrels for example in examples}
    asked = dev.DevSet(examples, qrels, paradigm("listwise"), renderer, 4096, protocol)
    found = dev.measure(run, asked)
    assert (found.malformed, found.fallbacks) == (1, 1)
    assert found.expected == pytest.approx(dev.references(asked)["random"])
    assert dev.references(asked)["first_stage"] == 1
