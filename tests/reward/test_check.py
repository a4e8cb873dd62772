"""`rewards check`: what we ship has the properties that it claims, and every planted fault is found."""

import dataclasses
import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from rl_rerank import registry
from rl_rerank.cli.main import main
from rl_rerank.metrics import by_place, ndcg
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import ORDER, Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.reward.base import Recipe, Term
from rl_rerank.reward.check import check
from rl_rerank_rewards.mm_r5 import MMR5
from rl_rerank_rewards.ndcg import NDCG

ROOT = Path(__file__).parents[2]
LISTWISE, GROUPWISE = Listwise(reasoning=True), Groupwise(reasoning=True)
SHIPPED = [
    (name, paradigm)
    for name in registry.names("reward")
    if registry.find("reward", name).__module__.startswith("rl_rerank_rewards.")
    and name not in ("llm_judge", "reward_model")  # they need a model; see tests/rewards and tests/training
    for paradigm in registry.find("reward", name).paradigms
]


def failures(reward, paradigm=LISTWISE):
    return check(Term("planted", reward), paradigm, queries=2, shuffles=50).failures


@pytest.mark.parametrize(("name", "paradigm"), SHIPPED)
def test_what_we_ship_has_the_properties_that_it_claims(name, paradigm):
    cls = registry.find("paradigm", paradigm)
    reasoning = {"reasoning": True} if "reasoning" in {f.name for f in dataclasses.fields(cls)} else {}
    assert failures(registry.build("reward", name, {}), cls(**reasoning)) == {}


@dataclass(frozen=True)
class ReadsIdZero:
    """Takes id 0 for the last document, as indexing does, and checks nothing else."""

    def __call__(self, example, rollout):
        ids = [int(i) for i in re.findall(r"\[(\d+)\]", rollout.completion.text)]
        docids = rollout.prompt.docids
        named = list(dict.fromkeys(docids[i - 1] for i in ids if i <= len(docids)))
        return ndcg(by_place(named), example.qrels, k=10)


def test_the_id_0_bug_is_found():
    found = failures(ReadsIdZero())
    assert "pays_partial" in found
    assert "earns" in found["pays_partial"]


@dataclass(frozen=True)
class NotANumber:
    def __call__(self, example, rollout):
        return NDCG()(example, rollout) if rollout.judgment.is_ok else float("nan")


def test_a_value_that_is_not_finite_is_found():
    assert re.search(r"reward 'planted' returned nan for qid '\w+' and the completion", failures(NotANumber())["runs"])


@dataclass(frozen=True)
class Raises:
    def __call__(self, example, rollout):
        return NDCG()(example, rollout) if rollout.judgment.is_ok else {}["no such key"]


def test_an_exception_is_found_and_told():
    assert "KeyError: 'no such key'" in failures(Raises())["runs"]


@dataclass(frozen=True)
class LikesTheShownOrder:
    """Half of it is how far the shown order was kept."""

    def __call__(self, example, rollout):
        if not rollout.judgment.is_ok:
            return 0.0
        order = sorted(rollout.judgment.scores, key=lambda docid: -rollout.judgment.scores[docid])
        kept = sum(a == b for a, b in zip(order, rollout.prompt.docids, strict=True)) / len(order)
        return NDCG()(example, rollout) + 0.5 * kept


def test_the_identity_hack_is_found():
    found = failures(LikesTheShownOrder())
    assert re.search(r"identity earns 0\.\d+ \+- 0\.\d+ more than random over \d+ queries", found["pays_identity"])


@dataclass(frozen=True)
class BreaksTiesInFavour:
    """Takes the best of the orders that equal scores leave open."""

    def __call__(self, example, rollout):
        if not rollout.judgment.is_ok:
            return 0.0
        scores = rollout.judgment.scores
        best = {d: scores[d] + 1e-3 * example.qrels.get(d, 0) for d in scores}
        return ndcg(best, {d: example.qrels.get(d, 0) for d in scores}, k=10)


def test_the_constant_score_hack_is_found():
    assert re.search(r"constant \w+ earns 0\.\d+ ", failures(BreaksTiesInFavour(), GROUPWISE)["pays_constant"])


def test_a_malformed_completion_that_pays_is_found():
    # a worst order earns less than .8, which is what saying nothing pays here
    assert "(cut) earns 0.8000" in failures(NDCG(malformed=0.8))["pays_partial"]


def test_paying_by_degrees_is_found_where_it_is_not_declared():
    @dataclass(frozen=True)
    class Claims(MMR5):
        unclaimed: ClassVar = {}

    assert "pays_partial" in failures(Claims())


@dataclass(frozen=True)
class Drifts:
    """Another value at every call."""

    calls: itertools.count = field(default_factory=itertools.count)

    def __call__(self, example, rollout):
        return 1e-6 * next(self.calls)


def test_a_second_value_for_the_same_completion_is_found():
    assert "and then something else" in failures(Drifts())["deterministic"]


OTHER_PROCESS = """\
import multiprocessing
class Mine:
    def __init__(self):
        {init}
    def __call__(self, example, rollout):
        return float(multiprocessing.parent_process() is not None)
"""


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("pass", "another process gives another value for"),
        ("if multiprocessing.parent_process(): raise OSError('no licence')", "cannot be built in a process of its own"),
    ],
)
def test_a_reward_that_another_process_cannot_give_is_found(tmp_path, init, said):
    (tmp_path / "mine.py").write_text(OTHER_PROCESS.format(init=init))
    recipe = Recipe("mine", {}, f"{tmp_path / 'mine.py'}:Mine")
    report = check(Term("mine", recipe.build(), recipe=recipe), Listwise(), queries=2, shuffles=20)
    assert said in report.failures["in_a_process"]


@dataclass(frozen=True)
class UpsideDown:
    def __call__(self, example, rollout):
        return 1 - NDCG(malformed=1.0)(example, rollout)


def test_a_completion_that_beats_gold_is_found():
    found = failures(UpsideDown())
    assert found["gold_best"].startswith("reversed: ")


@dataclass(frozen=True)
class OfTheBest:
    """Whether the best document is relevant, which a prompt of one document decides by itself."""

    def __call__(self, example, rollout):
        scores = rollout.judgment.scores
        return float(example.qrels.get(max(scores, key=scores.get, default=""), 0) >= 1)


def test_a_reward_that_pays_right_and_wrong_answers_alike_is_found():
    assert failures(OfTheBest(), LISTWISE) == {}
    said = "gold earns 0.0000 +- 0.0000 more than reversed over 150 queries, so that it teaches no order"
    assert failures(OfTheBest(), Pointwise())["orders"] == said


def test_the_example_of_the_readme_teaches_an_order(tmp_path):
    [code] = re.findall(r"```python\n(# mine\.py\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    recipe = Recipe("mine", {"x": 0.5}, f"{tmp_path / 'mine.py'}:Mine")
    term = Term("mine", recipe.build(), recipe=recipe)
    assert term.traits.paradigms == ("listwise",)
    report = check(term, ORDER, queries=2, shuffles=50)
    assert report.failures == {}
    assert report.values["gold"] == [0.5] * len(report.values["gold"])


def scored(example, rollout):
    return NDCG()(example, rollout)


def test_a_function_is_a_reward():
    assert Recipe("mine", {}, f"{__name__}:scored").build() is scored
    with pytest.raises(ValueError, match="reward 'mine' has no parameter 'x': it is no class"):
        Recipe("mine", {"x": 1}, f"{__name__}:scored").build()


@dataclass(frozen=True)
class AllOfAQuery:
    """The sum of what the others of the query scored."""

    paradigms = ("pointwise_graded",)

    def score_all(self, example, rollouts):
        given = [sum(r.judgment.scores.values()) for r in rollouts]
        return [sum(given) - value for value in given]


def test_a_query_reward_is_tried_with_its_siblings():
    # it pays for what the others say, so a constant high score earns the most
    assert "pays_constant" in failures(AllOfAQuery(), PointwiseGraded(reasoning=True))


def test_a_claim_that_nobody_makes_is_refused():
    class Odd(NDCG):
        unclaimed: ClassVar = {"pays": "why not"}

    with pytest.raises(ValueError, match="unclaimed names 'pays'; it can name: gold_best, orders, pays_partial"):
        failures(Odd())


@pytest.mark.slow
def test_the_command_prints_a_table_and_what_is_not_claimed(capsys):
    assert main(["rewards", "check", "mm_r5"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\n  gold +2\.0000 +2\.0000 +2\.0000\n", shown)
    assert re.search(r"\n  truncated +0\.0000 +0\.0000 +0\.0000\n", shown)
    assert "not claimed: pays_partial: a list without" in shown
    assert shown.endswith("mm_r5: it has every property that it claims\n")


@pytest.mark.slow
def test_the_command_fails_for_parameters_that_pay_malformed_completions(capsys):
    arguments = ["rewards", "check", "ndcg", "paradigm=groupwise", "rewards.ndcg.params.malformed=0.9"]
    assert main(arguments) == 1
    assert "FAILED pays_partial" in capsys.readouterr().out
