"""Checks of what a model has learned: each passes on a run in which it has, and fails on ones in which it has not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from support.checked_runs import Unsure, findings, made, ranked, spoil

from rl_rerank.config import Config, PluginConfig, RewardConfig
from rl_rerank.data import prepare
from rl_rerank.engines.oracle import Oracle
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import write_jsonl
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.stages.check.spec import CheckStage
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.stages.synth.spec import SynthStage
from rl_rerank.types import Completion, Prompt

pytestmark = pytest.mark.slow

HELD_OUT = 40
GROUPS = ("groupwise", {"size": 12})
LISTS = ("listwise", {"window": 12})
BOTH = {"before": "before", "after": "after"}


@pytest.fixture
def config(tmp_path) -> Config:
    found = made(tmp_path, queries=2 * HELD_OUT)
    found.rewards = {"ndcg": RewardConfig()}
    return found


def oracle(noise: float, seed: int = 0):
    """An engine that sees grades with errors of this size."""
    return lambda examples, target, **_: Oracle(examples, target, noise=noise, seed=seed)


def unsure(noise: float):
    """The same with log-probabilities."""
    return lambda examples, target, **_: Unsure(examples, target, noise=noise)


class Says(Oracle):
    """Answers every prompt with one text."""

    text = ""

    def generate(self, prompts, sampling, on_completion=None):
        return [[Completion(self.text)] for _ in prompts]


def says(text: str):
    return type("Saying", (Says,), {"text": text})


def constant(score: int):
    return says(json.dumps({f"[{i}]": score for i in range(1, 13)}))


@pytest.mark.parametrize("measure", ["reward", "nDCG@10"])
@pytest.mark.parametrize(
    ("before", "after", "passes"),
    [
        (oracle(20.0), oracle(0.3), True),
        (oracle(0.3), oracle(20.0), False),  # it falls
        (oracle(200.0), oracle(200.0, seed=1), False),  # random numbers
        (oracle(1.0), oracle(1.0), False),  # nothing has changed
        (oracle(200.0), constant(10), False),
    ],
)
def test_only_a_rise_on_the_same_held_out_queries_is_learning(config, monkeypatch, before, after, passes, measure):
    ranked(config, monkeypatch, "before", *GROUPS, engine=before)
    ranked(config, monkeypatch, "after", *GROUPS, engine=after)
    [(passed, said)] = findings(config, learned={**BOTH, "measure": measure})
    assert passed == passes, said
    assert f"on {HELD_OUT} queries, p = " in said


def test_the_reward_is_compared_on_the_prompts_that_both_were_asked(config, monkeypatch):
    # Windows behind the first one hold what the model moved up, so only the first is the same prompt.
    for name, noise in (("before", 20.0), ("after", 0.3)):
        ranked(config, monkeypatch, name, "listwise", {"window": 6, "stride": 3}, engine=oracle(noise))
    [(passed, said)] = findings(config, learned=BOTH)
    assert passed, said
    spoil(config, "before", "rollouts.jsonl", lambda rows: [row.update(docids=row["docids"][::-1]) for row in rows])
    assert findings(config, learned=BOTH) == [(False, "0 queries: too few to compare")]


def test_rewards_that_compare_documents_see_all_of_a_query(config, monkeypatch):
    config.rewards = {"erank": RewardConfig(params={"reference": 0.0})}
    for name, noise in (("before", 20.0), ("after", 0.3)):
        ranked(config, monkeypatch, name, "pointwise_graded", {"rule": "weighted"}, engine=unsure(noise))
    [(passed, said)] = findings(config, learned=BOTH)
    assert passed, said


def test_scored_answers_have_no_reward(config, monkeypatch):
    for name, noise in (("before", 20.0), ("after", 0.3)):
        ranked(config, monkeypatch, name, "pointwise", {}, engine=oracle(noise))
    with pytest.raises(ValueError, match="the answers of 'before' were scored, not written, so no reward"):
        findings(config, learned=BOTH)
    assert findings(config, learned={**BOTH, "measure": "nDCG@10"})[0][0]


def test_a_cut_answer_earns_what_it_earned_in_training(config, monkeypatch):
    for name in ("before", "after"):
        ranked(config, monkeypatch, name, *GROUPS, engine=oracle(0.3))
    cut = {"kind": "truncated", "place": ""}
    spoil(config, "before", "rollouts.jsonl", lambda rows: [row.update(issues=[cut]) for row in rows])
    [(passed, said)] = findings(config, learned=BOTH)
    assert passed and said.startswith("0.000 and ")


def test_no_value_of_few_queries_is_shown(tmp_path, monkeypatch):
    config = made(tmp_path, queries=58)
    config.rewards = {"ndcg": RewardConfig()}
    for name, noise in (("before", 20.0), ("after", 0.3)):
        ranked(config, monkeypatch, name, *GROUPS, engine=oracle(noise))
    assert findings(config, learned=BOTH) == [(False, "29 queries: too few to compare")]


@pytest.mark.parametrize(
    ("real", "control", "passes"), [(0.3, 20.0, True), (20.0, 0.3, False), (1.0, 1.0, False), (200.0, 199.0, False)]
)
def test_a_model_has_to_beat_its_twin_on_permuted_rewards(config, monkeypatch, real, control, passes):
    config.stages |= {"grpo": GRPOStage(kind="grpo"), "control": GRPOStage(kind="grpo", permute_rewards=True)}
    ranked(config, monkeypatch, "grpo_eval", *GROUPS, engine=oracle(real), model="grpo")
    ranked(config, monkeypatch, "control_eval", *GROUPS, engine=oracle(control), model="control")
    [(passed, said)] = findings(config, beats_control={"model": "grpo_eval", "control": "control_eval"})
    assert passed == passes, said


@pytest.mark.parametrize(
    ("engine", "passes"), [(oracle(0.3), True), (constant(0), False), (constant(10), False), (says("no idea"), False)]
)
def test_a_model_that_answers_the_same_for_all_documents_does_not_discriminate(config, monkeypatch, engine, passes):
    ranked(config, monkeypatch, "ranked", *GROUPS, engine=engine)
    [(passed, _)] = findings(config, discriminates={"stage": "ranked"})
    assert passed == passes


def test_the_share_of_queries_that_are_told_apart_has_a_threshold(config, monkeypatch):
    ranked(config, monkeypatch, "ranked", *GROUPS)

    def a_quarter_alike(rows):
        for row, value in zip(rows, [0.1 + 0.2, float("nan")] * 5, strict=False):
            row["raw_scores"] = dict.fromkeys(row["raw_scores"], value)
        rows[0]["raw_scores"][rows[0]["docids"][0]] = 0.3  # as arithmetic leaves it, equal but for rounding

    spoil(config, "ranked", "rankings.jsonl", a_quarter_alike)
    assert findings(config, discriminates={"stage": "ranked"}) == [(False, "75% (30 of 40)")]
    assert findings(config, discriminates={"stage": "ranked", "at_least": 0.75}) == [(True, "75% (30 of 40)")]


def test_orders_without_scores_are_no_business_of_discriminates(config, monkeypatch):
    ranked(config, monkeypatch, "ranked", *LISTS)
    with pytest.raises(LookupError, match="listwise gives 'ranked' orders and no scores; use order_sensitivity"):
        findings(config, discriminates={"stage": "ranked"})


AGAIN = {"stage": "one", "again": "other"}
AS_SHOWN = " > ".join(f"[{i}]" for i in range(1, 13))


@pytest.mark.parametrize(
    ("paradigm", "engine", "passes"),
    [
        (LISTS, oracle(0.3), True),
        (LISTS, oracle(200.0), True),  # a wrong order, but the documents' own
        (LISTS, says(AS_SHOWN), False),
        (LISTS, says(" > ".join(AS_SHOWN.split(" > ")[::-1])), False),
        (LISTS, says("no idea"), False),
        (GROUPS, constant(5), False),
    ],
)
def test_a_ranking_that_copies_the_order_shown_is_found(config, monkeypatch, paradigm, engine, passes):
    for name, seed in (("one", 1), ("other", 2)):
        ranked(config, monkeypatch, name, *paradigm, engine=engine, shuffle=True, seed=seed)
    [(passed, said)] = findings(config, order_sensitivity=AGAIN)
    assert passed == passes, said


def test_random_numbers_agree_as_little_as_the_orders_shown(config, monkeypatch):
    for name, seed in (("one", 1), ("other", 2)):
        ranked(config, monkeypatch, name, *GROUPS, engine=oracle(200.0, seed=seed), shuffle=True, seed=seed)
    [(passed, said)] = findings(config, order_sensitivity=AGAIN)
    assert not passed, said


def test_only_settled_ranks_have_to_agree(config, monkeypatch):
    # Heapsort settles three ranks; the other documents keep the order shown.
    for name, seed in (("one", 1), ("other", 2)):
        ranked(config, monkeypatch, name, "setwise", {"children": 3, "k": 3}, shuffle=True, seed=seed)
    assert not findings(config, order_sensitivity=AGAIN)[0][0]
    assert findings(config, order_sensitivity={**AGAIN, "k": 3})[0][0]


def rows_of(config: Config, paradigm: str, target) -> None:
    """SFT rows of a synth stage: the training queries with what `target` makes of an example and its prompt."""
    config.stages["synth"] = SynthStage(kind="synth", mixture={paradigm: 100})
    built, rows = build_paradigm(config, paradigm), []
    for example in prepare(config.data, Path(config.run_dir) / "data").examples("train"):
        for prompt in built.prompts(example, random.Random(example.qid)):
            row = {"qid": example.qid, "paradigm": paradigm, "docids": list(prompt.docids), "teacher": "labels"}
            rows.append({**row, "target": target(built, example, prompt)})
    write_jsonl(Path(config.run_dir) / "synth/rows.jsonl", rows)


def names(chosen):
    """A target whose reasoning names the identifiers that `chosen` takes from those ordered by grade."""

    def target(paradigm, example, prompt):
        best = sorted(range(1, len(prompt.docids) + 1), key=lambda i: -example.qrels[prompt.docids[i - 1]])
        said = "".join(f"Passage {i} is about it. " for i in chosen(best))
        return (
            f"<think>{said}{paradigm.target(example, prompt).partition('</think>')[1]}"
            + (paradigm.target(example, prompt).partition("</think>")[2])
        )

    return target


@pytest.mark.parametrize("paradigm", ["listwise", "groupwise", "setwise"])
@pytest.mark.parametrize(
    ("target", "passes"),
    [
        (lambda paradigm, example, prompt: paradigm.target(example, prompt), True),
        (names(lambda best: best[:1]), True),
        (names(lambda best: best[-1:]), False),
        (names(lambda best: sorted(best)[:2]), False),  # whatever is shown first
        (names(lambda best: []), False),
        (names(lambda best: best), False),  # all of them: nothing to see
    ],
)
def test_reasoning_has_to_name_what_the_answer_puts_on_top(config, paradigm, target, passes):
    params = {"size": 12} if paradigm == "groupwise" else {"children": 11} if paradigm == "setwise" else {"window": 12}
    config.paradigm, config.paradigms = paradigm, {paradigm: PluginConfig(params={**params, "reasoning": True})}
    rows_of(config, paradigm, target)
    [(passed, said)] = findings(config, cites_top={"stage": "synth"})
    assert passed == passes, said


def test_the_reasoning_of_answers_is_read_too(config, monkeypatch):
    params = {"size": 12, "reasoning": True}
    ranked(config, monkeypatch, "ranked", "groupwise", params)
    assert findings(config, cites_top={"stage": "ranked"})[0][0]
    scores = json.dumps({f"[{i}]": i - 1 for i in range(1, 11)} | {"[11]": 10, "[12]": 0})
    told = says(f"<think>Document 1 and passage [2] say it.</think><answer>{scores}</answer>")
    ranked(config, monkeypatch, "ranked", "groupwise", params, engine=told)
    # By chance: two of twelve documents include the one best with 2 / 12.
    assert findings(config, cites_top={"stage": "ranked"}) == [
        (False, "0% (0 of 40), 17% by chance; 0 more name all documents")
    ]


def test_an_identifier_is_read_in_every_way_that_prompts_name_it(config):
    config.paradigm, config.paradigms = "setwise", {"setwise": PluginConfig(params={"reasoning": True})}
    built = build_paradigm(config, "setwise")
    prompt = Prompt("q", ("a", "b", "c"), ())
    for said, right in (("Passage B is", True), ("[B] is", True), ("documents B", True), ("A B b Big", False)):
        text = f"<think>{said}</think><answer>B</answer>"
        assert built.parse(prompt, Completion(text), strict=True).is_ok
        config.stages["synth"] = SynthStage(kind="synth")
        row = {"qid": "q", "paradigm": "setwise", "docids": list("abc"), "teacher": "labels", "target": text}
        write_jsonl(Path(config.run_dir) / "synth/rows.jsonl", [row])
        assert findings(config, cites_top={"stage": "synth"})[0][0] == right


REFUSED = [
    ({"learned": {"before": "one", "after": "nowhere"}}, "names the rerank stage 'nowhere', which the experiment"),
    ({"learned": {"before": "one", "after": "later"}}, "names the rerank stage 'later', which the experiment"),
    ({"learned": {"before": "first", "after": "one"}}, "'first', whose rankings are not those of a model alone"),
    ({"discriminates": {"stage": "fused"}}, "'fused', whose rankings are not those of a model alone"),
    ({"learned": {"before": "one", "after": "dev"}}, "'one' ranks split 'test', 'dev' 'dev'"),
    ({"learned": {"before": "one", "after": "lists"}}, "'one' asks with groupwise, 'lists' with listwise"),
    ({"learned": {"before": "one", "after": "other", "measure": "nDGC@10"}}, "'nDGC@10' is no measure"),
    ({"beats_control": {"model": "one", "control": "other"}}, "'one' ranks with 'model', which is no grpo stage"),
    ({"beats_control": {"model": "twin", "control": "real"}}, "'real' has to rank with a model that was trained with"),
    ({"beats_control": {"model": "real", "control": "cousin"}}, "differ in more than rewards: learning_rate is 1e-05"),
    ({"order_sensitivity": {"stage": "one", "again": "real"}}, "need the same model; got 'model' and 'grpo'"),
    ({"order_sensitivity": {"stage": "one", "again": "same"}}, "show the documents in the same order: give them"),
    ({"order_sensitivity": {"stage": "one", "again": "lists"}}, "need the same paradigm; got groupwise and listwise"),
    ({"cites_top": {"stage": "grpo"}}, "'grpo' is neither a synth nor a rerank stage"),
    ({"cites_top": {"stage": "one"}}, "the paradigm 'groupwise' of 'one' does not reason"),
]


@pytest.mark.parametrize(("checks", "reason"), REFUSED)
def test_what_a_check_cannot_look_at_is_refused_before_the_run(config, checks, reason):
    config.paradigm = "groupwise"
    config.paradigms = {"groupwise": PluginConfig(params={"size": 6}), "listwise": PluginConfig()}
    training = {"kind": "grpo", "prompts_per_step": 8}
    config.stages = {
        "first": RerankStage(kind="rerank", model="first_stage"),
        "one": RerankStage(kind="rerank"),
        "other": RerankStage(kind="rerank", seed=2),
        "same": RerankStage(kind="rerank"),
        "dev": RerankStage(kind="rerank", split="dev"),
        "lists": RerankStage(kind="rerank", paradigm="listwise", seed=2),
        "fused": RerankStage(kind="rerank", fuse=["one", "first"]),
        "grpo": GRPOStage(**training),
        "control": GRPOStage(**training, permute_rewards=True),
        "faster": GRPOStage(**training, permute_rewards=True, learning_rate=2e-5),
        "real": RerankStage(kind="rerank", model="grpo"),
        "twin": RerankStage(kind="rerank", model="control"),
        "cousin": RerankStage(kind="rerank", model="faster"),
        "mechanism": CheckStage(kind="check", checks=checks),
        "later": RerankStage(kind="rerank"),
    }
    with pytest.raises((LookupError, ValueError)) as caught:
        Experiment.of(config)
    [name] = checks
    assert f"stages.mechanism.checks.{name}: " in str(caught.value) and reason in str(caught.value)
