import logging
import random
import struct
from dataclasses import replace
from itertools import pairwise

import pytest

from rl_rerank.config import Config, PluginConfig
from rl_rerank.engines.oracle import Oracle
from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.ordering import rank_by_scores
from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.ranking.driver import RETRY_TEMPERATURE, answer, rerank, shuffled
from rl_rerank.types import Candidate, RankingExample, Status

PARADIGMS = [
    Pointwise(),
    Listwise(window=4, stride=2),
    Groupwise(size=3),
    FirstToken(window=4, stride=2),
    Pairwise(),
    Pairwise("heapsort"),
    Pairwise("sliding", k=3),
    Pairwise(mode="scoring", aggregation="sym_sum"),
    Setwise(),
    Setwise("bubblesort", mode="scoring", k=3),
]
GARBAGE = [
    "",
    "yes",
    "[2] > [1]",
    "[9]",
    "[1] > [1] > [2]",
    '{"[1]": 4}',
    '{"[1]": 1, "[2]": 9, "[3]": 9}',
    "no > idea",
    "A",
    "B > A",
]


def example(qid, grades):
    candidates = tuple(Candidate(f"{qid}-{i}", f"grade {g}") for i, g in enumerate(grades))
    return RankingExample(qid, "query", candidates, {f"{qid}-{i}": g for i, g in enumerate(grades)})


def examples(*sizes):
    return [example(f"q{i}", [(7 * i + 3 * j) % 4 for j in range(size)]) for i, size in enumerate(sizes)]


def oracle(paradigm, shown):
    return Oracle(shown, paradigm.target)


@pytest.mark.parametrize("paradigm", PARADIGMS, ids=str)
def test_rankings_are_permutations_in_the_order_of_the_examples(paradigm):
    asked = examples(1, 2, 3, 4, 5, 6, 7, 12)
    rankings, rollouts = rerank(asked, paradigm, oracle(paradigm, asked), shuffle_seed=3)
    assert [r.qid for r in rankings] == [ex.qid for ex in asked]
    for ex, ranking in zip(asked, rankings, strict=True):
        assert sorted(ranking.docids) == sorted(ex.docids)
        assert ex.qrels[ranking.docids[0]] == max(ex.qrels.values())
        assert (ranking.num_malformed, ranking.num_fallbacks) == (0, 0)
    assert sum(r.num_prompts for r in rankings) == len(rollouts)


@pytest.mark.parametrize("paradigm", PARADIGMS, ids=str)
def test_whatever_a_model_says_every_document_is_ranked_with_decreasing_scores(paradigm):
    rng = random.Random(5)
    asked = examples(*range(1, 12))
    engine = Scripted(lambda p: rng.choice(GARBAGE), lambda p, text: rng.choice([-1.0, -1.0000000001, -2.0]))
    for seed in range(10):
        rankings, _ = rerank(asked, paradigm, engine, shuffle_seed=seed)
        for ex, ranking in zip(asked, rankings, strict=True):
            assert sorted(ranking.docids) == sorted(ex.docids)
            scores = [struct.unpack("f", struct.pack("f", ranking.scores[d]))[0] for d in ranking.docids]
            assert all(a > b for a, b in pairwise(scores))


def test_all_ready_prompts_of_all_queries_are_one_round():
    # window 4, stride 2: 8 documents take 3 windows, 6 take 2, 4 take 1, 1 takes none
    asked = examples(8, 6, 4, 1)
    engine = oracle(paradigm := Listwise(window=4, stride=2), asked)
    rankings, rollouts = rerank(asked, paradigm, engine)
    assert engine.batch_sizes == [3, 2, 1]
    assert [r.num_prompts for r in rankings] == [3, 2, 1, 0]
    assert [r.prompt.qid for r in rollouts] == ["q0", "q1", "q2", "q0", "q1", "q0"]
    engine = oracle(Pointwise(), asked := examples(*[20] * 10))
    rerank(asked, Pointwise(), engine)
    assert engine.batch_sizes == [200]


def test_a_progress_bar_changes_no_ranking():
    asked = examples(*[20] * 5)
    plain, _ = rerank(asked, Pointwise(), oracle(Pointwise(), asked))
    shown, _ = rerank(asked, Pointwise(), oracle(Pointwise(), asked), progress="test")
    assert shown == plain


def test_the_shown_order_depends_on_the_seed_and_the_query_alone():
    first, second = examples(12, 12)
    assert shuffled(first, 1) == shuffled(first, 1)
    assert shuffled(first, 1).docids != shuffled(first, 2).docids
    positions = [[int(d.split("-")[1]) for d in shuffled(ex, 1).docids] for ex in (first, second)]
    assert positions[0] != positions[1]
    assert sorted(shuffled(first, 1).docids) == sorted(first.docids)


def test_without_a_seed_equal_scores_keep_the_first_stage_order():
    [asked] = examples(9)
    [ranking], _ = rerank([asked], Pointwise(), Scripted(lambda p: "", lambda p, text: -1.0))
    assert ranking.docids == asked.docids
    assert list(ranking.scores.values()) == [9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_scores_that_differ_only_beyond_float32_become_ranks():
    asked = example("q", [0, 0])
    close = {"q-0": 0.5, "q-1": 0.5 + 1e-12}
    [ranking], _ = rerank(
        [asked], Pointwise(), Scripted(lambda p: "", lambda p, text: close[p.docids[0]] if text == "yes" else 0.0)
    )
    assert dict(ranking.scores) == {"q-1": 2.0, "q-0": 1.0}


@pytest.mark.parametrize("paradigm", PARADIGMS, ids=str)
def test_a_query_without_candidates_is_empty_and_loses_no_other(paradigm, caplog):
    asked = [example("none", []), *examples(3)]
    with caplog.at_level(logging.WARNING):
        rankings, _ = rerank(asked, paradigm, oracle(paradigm, asked))
    assert [len(r.docids) for r in rankings] == [0, 3]
    assert "qid 'none' has no candidates" in caplog.text


def test_answers_to_given_prompts_are_read_strictly():
    asked = example("q", [1, 0])
    paradigm = Listwise(window=2)
    prompt = paradigm.prompt(asked, asked.docids)
    engine = Scripted(lambda p: "Sure: [2] > [1]")
    assert [r.judgment.status for r in answer([prompt], paradigm, engine)] == ["answer"]
    assert [r.judgment.status for r in answer([prompt], paradigm, engine, strict=False)] == ["repaired"]


def test_a_scoring_paradigm_can_be_asked_for_its_text():
    asked = example("q", [1, 0])
    prompts = [Pointwise().prompt(asked, [d]) for d in asked.docids]
    rollouts = answer(prompts, Pointwise(), oracle(Pointwise(), [asked]))
    assert [r.completion.text for r in rollouts] == ["yes", "no"]


def test_a_paradigm_is_built_with_its_configured_parameters():
    config = Config(paradigms={"listwise": PluginConfig(params={"window": 4}), "short": PluginConfig(name="listwise")})
    assert build_paradigm(config, "listwise") == Listwise(window=4)
    assert build_paradigm(config, "short") == Listwise()
    assert build_paradigm(config, "pointwise") == Pointwise()


class Moody(Scripted):
    """Answers as the n-th sampling of a prompt is scripted, and keeps what it was asked with."""

    def __init__(self, answers):
        super().__init__(lambda p: "")
        self.answers, self.seen, self.samplings = answers, [], []

    def generate(self, prompts, sampling, on_completion=None):
        self.samplings.append(sampling)
        self.seen.append([p.docids for p in prompts])
        turn = len(self.samplings) - 1
        self._answer = lambda p: self.answers[p.docids[0]][turn]
        return super().generate(prompts, sampling, on_completion)


def test_an_unusable_answer_is_asked_for_again_with_sampling_and_counted(groups_in_order):
    # groups of one query: a-b is read at once, c-d at the second repetition, e-f never
    asked = example("q", [0, 1, 2, 3, 0, 1])
    read = '{"[1]": 2, "[2]": 5}'
    engine = Moody({"q-0": [read], "q-2": ["?", "?", read], "q-4": ["?", "?", "?"]})
    [ranking], rollouts = rerank([asked], Groupwise(size=2), engine, retries=2, retry_seed=7)
    assert [len(batch) for batch in engine.seen] == [3, 2, 2]
    assert [(s.temperature, s.seed) for s in engine.samplings] == [
        (0.0, 0),
        (RETRY_TEMPERATURE, 8),
        (RETRY_TEMPERATURE, 9),
    ]
    # 3 prompts, 2 + 2 repetitions; the last answers of the first two groups are well formed, and of the third none is
    assert (ranking.num_prompts, ranking.num_retries) == (3, 4)
    assert (ranking.num_malformed, ranking.num_fallbacks) == (1, 1)
    assert [r.prompt.docids[0] for r in rollouts] == ["q-0", *["q-2"] * 3, *["q-4"] * 3]
    # scores 2 5 2 5 and, behind the last scored document, twice its 5; equal ones as shown
    assert ranking.docids == ("q-1", "q-3", "q-4", "q-5", "q-0", "q-2")


def test_without_retries_nothing_is_asked_twice_and_scored_prompts_never_are(groups_in_order):
    asked = example("q", [0, 1])
    engine = Moody({"q-0": ["?"]})
    [ranking], _ = rerank([asked], Groupwise(size=2), engine)
    assert (len(engine.seen), ranking.num_retries, ranking.num_fallbacks) == (1, 0, 1)
    engine = Scripted(lambda p: "", lambda p, text: -1.0)
    rerank([asked], Pointwise(), engine, retries=3)
    assert engine.batch_sizes == [2]


class Both:
    """Scores each document, then asks for the order of the list, both in one strategy."""

    name = "both"
    continuations = ()
    max_completion_tokens = 20

    def __init__(self):
        self.members = {"pointwise": Pointwise(), "listwise": Listwise(window=4)}

    def parse(self, prompt, completion, *, strict):
        return self.members[prompt.paradigm].parse(prompt, completion, strict=strict)

    def strategy(self, shown):
        scored = [replace(Pointwise().prompt(shown, [d]), continuations=("yes", "no", "maybe")) for d in shown.docids]
        *rated, ordered = yield [*scored, Listwise(window=4).prompt(shown, shown.docids)]
        assert all(judgment.scores for judgment in rated)
        return rank_by_scores(shown, ordered.scores, num_prompts=len(rated) + 1, num_malformed=0, num_fallbacks=0)


def test_prompts_that_score_and_prompts_that_generate_share_a_round_and_have_their_own_parsers():
    asked = [example("q0", [0, 1, 2]), example("q1", [1, 0])]
    engine = Scripted(lambda p: " > ".join(f"[{i}]" for i in range(len(p.docids), 0, -1)), lambda p, text: len(text))
    rankings, rollouts = rerank(asked, Both(), engine)
    # one call scores the 3 + 2 documents of both queries, one generates their 2 lists
    assert engine.batch_sizes == [5, 2]
    assert [r.docids for r in rankings] == [("q0-2", "q0-1", "q0-0"), ("q1-1", "q1-0")]
    assert [r.prompt.paradigm for r in rollouts] == [*["pointwise"] * 3, "listwise", *["pointwise"] * 2, "listwise"]
    assert set(rollouts[0].completion.continuations) == {"yes", "no", "maybe"}
    assert {r.judgment.status for r in rollouts} == {Status.ok}


def test_repeats_are_shown_in_orders_of_their_own_and_the_first_is_the_plain_one():
    [asked] = examples(12)
    orders = [shuffled(asked, 1, repeat).docids for repeat in range(3)]
    assert orders[0] == shuffled(asked, 1).docids
    assert len(set(orders)) == 3
