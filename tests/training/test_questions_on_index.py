"""Training prompts that are made when they are asked for are those of the plain way, which makes all at once."""

import random

import numpy as np
import pytest

from rl_rerank.config import CurriculumConfig
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.loop import on_index
from rl_rerank.training.loop.curriculum import FirstStage, drawn, generator
from rl_rerank.training.loop.pass_rate import AdaptiveQuestions, PassRates
from rl_rerank.training.loop.training_prompts import Question, Questions
from rl_rerank.types import Candidate, RankingExample


def example(number):
    rng = random.Random(number)
    qid = f"q{number}"
    candidates = tuple(
        Candidate(f"{qid}d{i}", f"passage {i} of {qid}", rank=i + 1, score=rng.random())
        for i in range(rng.randint(1, 6))
    )
    return RankingExample(qid, f"question {qid}", candidates, {c.docid: rng.choice([0, 0, 1]) for c in candidates})


EXAMPLES = [example(number) for number in range(25)]


def at_once(examples, paradigm, renderer, *, count, seed, per_query=None, curriculum=None, step_size=1):
    """All questions, rendered."""
    found = []

    def step():
        return len(found) // step_size

    epoch = query = 0
    while len(found) < count:
        if curriculum is None:
            order = list(examples)
            random.Random(f"{seed}:{epoch}").shuffle(order)
        else:
            order = (examples[place] for place in curriculum.one_pass(f"{seed}:{epoch}", step))
        for one in order:
            prompts = paradigm.prompts(one, random.Random(f"{seed}:{epoch}:{one.qid}"))
            if prompts and per_query is not None and len(prompts) != per_query:
                continue
            found += [Question(one, prompt, renderer(prompt).token_ids, query) for prompt in prompts]
            query += 1
            if len(found) >= count:
                break
        epoch += 1
    return found[:count]


@pytest.mark.parametrize("kept", [1, 64])
@pytest.mark.parametrize(
    ("paradigm", "settings"),
    [
        (Listwise(window=4, stride=2), {}),
        (Pointwise(pairs=2), {}),  # none, two or four prompts of an example
        (PointwiseGraded(documents=3), {"per_query": 3}),
        (Pointwise(pairs=1), {"curriculum": CurriculumConfig(kind="normscore", steps=9), "step_size": 4}),
    ],
    ids=["one", "several", "whole", "curriculum"],
)
def test_questions_are_those_that_are_made_at_once(chatml_tokenizer, monkeypatch, paradigm, settings, kept):
    monkeypatch.setattr("rl_rerank.training.loop.training_prompts.KEPT", kept)
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=300)
    settings = {"count": 75, "seed": 3, **settings}
    if "curriculum" in settings:
        settings["curriculum"] = FirstStage(settings["curriculum"], EXAMPLES)
    expected = at_once(EXAMPLES, paradigm, renderer, **settings)
    assert list(Questions(EXAMPLES, paradigm, renderer, **settings)) == expected
    # Behind a checkpoint, and then in any order.
    again = Questions(EXAMPLES, paradigm, renderer, **settings)
    assert again[40:44] == expected[40:44]
    for number in random.Random(0).sample(range(75), 30):
        assert again[number] == expected[number]
    assert again[-1] == expected[-1]
    with pytest.raises(IndexError):
        again[75]


def chosen_at_once(examples, paradigm, renderer, rates, *, step, block, seed, per_query=None):
    """The questions of a step under the pass rates of the moment."""
    rng, weights = generator(f"{seed}:{step}"), np.array([rates.weight(one.qid) for one in examples])
    found, query, times = [], step * block, 0
    while len(found) < block:
        for number in drawn(weights, rng):
            one = examples[number]
            prompts = paradigm.prompts(one, random.Random(f"{seed}:{step}:{times}:{one.qid}"))
            if not prompts or (per_query is not None and len(prompts) != per_query):
                continue
            found += [Question(one, prompt, renderer(prompt).token_ids, query) for prompt in prompts]
            query += 1
            if len(found) >= block:
                break
        times += 1
    return found[:block]


@pytest.mark.parametrize(
    ("paradigm", "block", "per_query"),
    [(Listwise(window=4, stride=2), 6, None), (Pointwise(pairs=2), 30, None), (PointwiseGraded(documents=3), 6, 3)],
    ids=["one", "several", "whole"],
)
def test_questions_chosen_by_pass_rates_stay_what_they_were_when_others_have_taken_their_place_in_memory(
    chatml_tokenizer, paradigm, block, per_query
):
    renderer, rates = Renderer(chatml_tokenizer, max_prompt_tokens=300), PassRates(0.5)
    settings = {"block": block, "seed": 3, "per_query": per_query}
    asked = AdaptiveQuestions(EXAMPLES, paradigm, renderer, rates, steps=9, **settings)
    expected = []
    for step in range(9):
        expected += chosen_at_once(EXAMPLES, paradigm, renderer, rates, step=step, **settings)
        assert asked[step * block : (step + 1) * block] == expected[step * block :]
        rates.observe((question.example.qid, float(step % 2)) for question in expected[step * block :])
    assert list(asked) == expected  # the rates have changed, and the first steps are no longer in memory
    assert asked._made.cache_info().currsize <= 2


def test_nothing_is_rendered_before_its_tokens_are_read(chatml_tokenizer):
    class Counted(Renderer):
        rendered = 0

        def __call__(self, prompt):
            self.rendered += 1
            return super().__call__(prompt)

    renderer = Counted(chatml_tokenizer, max_prompt_tokens=300)
    asked = Questions(EXAMPLES, Pointwise(), renderer, count=10_000, seed=1)
    assert asked[400].prompt.docids and asked[400].query > 0
    assert renderer.rendered == 0
    assert len(asked[400].token_ids) == len(list(asked[400].token_ids)) > 10
    assert renderer.rendered == 1
    for number in range(401, 401 + 4 * on_index.KEPT):
        asked[number]
    assert asked._made.cache_info().currsize == on_index.KEPT
