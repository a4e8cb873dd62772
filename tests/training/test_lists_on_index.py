"""Lists that are made when they are asked for are those of the plain way, which makes all of them at once."""

import random

import pytest

from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.windows import training_window
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.exact.lists import RankedList, lists
from rl_rerank.types import Candidate, RankingExample


def example(number):
    rng = random.Random(number)
    qid, size = f"q{number}", rng.randint(1, 9)
    candidates = tuple(Candidate(f"{qid}d{i}", f"passage {i} of {qid}") for i in range(size))
    qrels = {candidate.docid: rng.choice([-1, 0, 0, 1, 2]) for candidate in candidates if rng.random() < 0.8}
    return RankingExample(qid, f"question {qid}", candidates, qrels)


EXAMPLES = [example(number) for number in range(30)]


def at_once(examples, paradigm, renderer, *, count, size, seed):
    """All lists in one pass over one random stream."""
    gains = {e.qid: {docid: e.gain(docid) for docid in e.docids} for e in examples}
    usable = [one for one in examples if len(set(gains[one.qid].values())) > 1]
    found = []
    for turn in range(-(-count // len(usable))):
        rng = random.Random(f"{seed}:{turn}")
        for one in rng.sample(usable, len(usable))[: count - len(found)]:
            gain = gains[one.qid]
            docids = list(one.docids)
            if size is not None:
                best = max(gain.values())
                lower = [docid for docid in gain if gain[docid] < best]
                chosen = rng.choice([docid for docid in gain if gain[docid] == best])
                docids = [chosen, *rng.sample(lower, min(size - 1, len(lower)))]
            asked = [[docid] for docid in docids]
            if isinstance(paradigm, FirstToken):
                own, most = random.Random(f"{seed}:{turn}:{one.qid}"), len(paradigm.continuations)
                docids = training_window(one, most, own) if len(docids) > most else own.sample(docids, len(docids))
                asked = [docids]
            prompts = [paradigm.prompt(one, shown) for shown in asked]
            answers = [(*renderer.continuation_ids(paradigm.target(one, p)), renderer.end_id) for p in prompts]
            token_ids = tuple(renderer(prompt).token_ids for prompt in prompts)
            grades = tuple(float(gain[docid]) for docid in docids)
            found.append(RankedList(one, tuple(docids), grades, token_ids, tuple(answers)))
    return found


@pytest.mark.parametrize("size", [None, 2, 4])
@pytest.mark.parametrize("paradigm", [Pointwise(), FirstToken(window=5)], ids=lambda p: p.name)
def test_lists_are_those_that_are_made_at_once(chatml_tokenizer, paradigm, size):
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=300)
    usable = sum(len({e.gain(docid) for docid in e.docids}) > 1 for e in EXAMPLES)
    settings = {"count": 2 * usable + 7, "size": size, "seed": 3}  # the third pass is cut short
    expected = at_once(EXAMPLES, paradigm, renderer, **settings)
    found = lists(EXAMPLES, paradigm, renderer, **settings)
    assert found.num_documents().tolist() == [len(one.docids) for one in expected]
    assert list(found) == expected
    # Each by itself, in any order, as a resumed run or a worker of the data loader asks for them.
    again = lists(EXAMPLES, paradigm, renderer, **settings)
    for number in random.Random(0).sample(range(len(expected)), 40):
        assert again[number] == expected[number]


def test_nothing_is_read_or_rendered_before_it_is_asked_for(chatml_tokenizer):
    class Counted(Renderer):
        rendered = 0

        def __call__(self, prompt):
            self.rendered += 1
            return super().__call__(prompt)

    renderer = Counted(chatml_tokenizer, max_prompt_tokens=300)
    found = lists(EXAMPLES, Pointwise(), renderer, count=1000, size=None, seed=1)
    one = found[700]
    assert renderer.rendered == 0
    assert (
        len(one.prompts[0]) > 10
        and one.prompts[0][0] == renderer(Pointwise().prompt(one.example, one.docids[:1])).token_ids[0]
    )
    assert renderer.rendered == 2  # and once by this test
    assert found[700] is one
