"""Every check on a run that does what it should, ranked by an oracle, and on one where a fault was planted."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.checked_runs import N, Unsure, findings, made, ranked, spoil

from rl_rerank.config import Config, FusionConfig, PluginConfig, RewardConfig
from rl_rerank.data import prepare
from rl_rerank.engines.oracle import Oracle
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import write_json, write_jsonl
from rl_rerank.stages.check.spec import CheckStage
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.rerank.spec import RerankStage


@pytest.fixture
def config(tmp_path) -> Config:
    return made(tmp_path, queries=24)


def test_format_rate(config, tmp_path):
    write_json(tmp_path / "run/sft_eval/format.json", {"listwise": {"prompts": 10, "well_formed": 9}})
    config.stages["sft_eval"] = RerankStage(kind="rerank")
    assert findings(config, format_rate={"stage": "sft_eval", "paradigm": "listwise"}) == [(True, "90% (9 of 10)")]
    [(passed, _)] = findings(config, format_rate={"stage": "sft_eval", "paradigm": "listwise", "at_least": 0.95})
    assert not passed


def test_gates(config):
    prepare(config.data, Path(config.run_dir) / "data")
    config.paradigm = "listwise"
    config.paradigms = {"listwise": PluginConfig(params={"window": 6, "reasoning": True})}
    config.rewards = {"multiview": RewardConfig()}
    ladder = {"no tags": -1.0, "truncated": -1.0, "two answers": 0.0, "duplicate": 0.0, "id 0": 0.0, "id n+1": 0.0}
    assert all(passed for passed, _ in findings(config, gates={"expected": ladder}))
    # As published, an identifier beyond the list passes and earns something.
    config.rewards = {"multiview": RewardConfig(params={"check_range": False})}
    passed = dict(zip(ladder, (p for p, _ in findings(config, gates={"expected": ladder})), strict=True))
    assert passed == dict.fromkeys(ladder, True) | {"id 0": False, "id n+1": False}
    # A single label: n is what the prompt shows, not what the answer names.
    config.paradigm, config.rewards = "setwise", {"rank_r1": RewardConfig()}
    config.paradigms = {"setwise": PluginConfig(params={"labels": "numbers", "reasoning": True})}
    assert findings(config, gates={"expected": {"id n+1": 0.0, "text after": 1.0}}) == [(True, "0"), (True, "1")]
    assert findings(config, gates={"expected": {"no such fault": 0.0}}) == [(False, "no completion can have it")]


def test_groups_and_fusion(config, monkeypatch):
    fusion = FusionConfig(method="minmax", weight=0.6)
    for name, settings in (("groups", {}), ("fused", {"fusion": fusion})):
        ranked(config, monkeypatch, name, "groupwise", {"size": 5, "repeats": 3}, **settings)
    looked = {"stage": "groups", "fused": "fused"}
    assert [passed for passed, _ in findings(config, groups=looked)] == [True, True, True]
    spoil(config, "groups", "rollouts.jsonl", lambda rows: rows[0]["docids"].pop())
    assert [passed for passed, _ in findings(config, groups=looked)] == [False, True, True]
    config.stages["fused"].fusion = FusionConfig(method="minmax", weight=0.5)
    assert [passed for passed, _ in findings(config, groups=looked)] == [False, True, False]


def test_groups_along_the_first_stage_are_found(config, monkeypatch):
    ranked(config, monkeypatch, "groups", "groupwise", {"size": 5})

    def in_order(rows):
        for row, start in zip(rows, [0, 5, 10] * (len(rows) // 3), strict=True):
            row["docids"] = [f"{row['qid'][1:]}-{c}" for c in range(start, min(start + 5, N))]

    spoil(config, "groups", "rollouts.jsonl", in_order)
    assert [passed for passed, _ in findings(config, groups={"stage": "groups"})] == [True, False]


def test_calls(config, monkeypatch):
    ranked(config, monkeypatch, "sorted", "setwise", {"children": 3, "k": 3})
    [(passed, said)] = findings(config, calls={"stage": "sorted"})
    assert passed, said
    spoil(config, "sorted", "rollouts.jsonl", lambda rows: rows.extend(rows[:1] * 40))
    assert not findings(config, calls={"stage": "sorted"})[0][0]


def test_sliding_windows_and_the_recall_behind_them(config, monkeypatch):
    ranked(config, monkeypatch, "slid", "listwise", {"window": 6, "stride": 3})
    config.rewards = {"multiview": RewardConfig(params={"recall_k": 3})}
    assert [passed for passed, _ in findings(config, sliding={"stage": "slid"})] == [True, True]
    config.rewards = {"multiview": RewardConfig()}
    assert findings(config, sliding={"stage": "slid"})[1] == (False, "recall at 10")
    spoil(config, "slid", "rollouts.jsonl", lambda rows: rows[1].update(docids=rows[0]["docids"]))
    assert findings(config, sliding={"stage": "slid"})[0] == (False, "11 of 12 queries, at most 3 calls")


def test_scores_are_weighted_by_their_probability(config, monkeypatch):
    ranked(config, monkeypatch, "scored", "pointwise_graded", {"rule": "weighted"}, engine=Unsure)
    [(passed, said)] = findings(config, score_rule={"stage": "scored"})
    assert passed
    assert said.startswith("p(s) is 0.779 on average")  # exp(-1/4)

    def without(rows):
        for row in rows:
            row["raw_scores"] = {docid: score / 0.7788007830714049 for docid, score in row["raw_scores"].items()}

    spoil(config, "scored", "rankings.jsonl", without)
    assert not findings(config, score_rule={"stage": "scored"})[0][0]


def test_a_query_that_was_split_is_found(config, tmp_path):
    config.paradigm = "pointwise_graded"
    config.paradigms = {"pointwise_graded": PluginConfig(params={"documents": 4})}
    config.stages["grpo"] = GRPOStage(kind="grpo", num_generations=2)
    rows = [{"step": step, "qid": qid} for step in (1, 2) for qid in "ab" for _ in range(8)]
    write_jsonl(tmp_path / "run/grpo/completions.jsonl", rows)
    assert findings(config, query_scope={}) == [(True, "4 of 4 queries of all steps")]
    # A file that was full has been put aside.
    write_jsonl(tmp_path / "run/grpo/completions.2.jsonl", rows[:16])
    write_jsonl(tmp_path / "run/grpo/completions.jsonl", rows[16:])
    assert findings(config, query_scope={}) == [(True, "4 of 4 queries of all steps")]
    write_jsonl(tmp_path / "run/grpo/completions.jsonl", rows[17:])
    assert findings(config, query_scope={}) == [(False, "3 of 4 queries of all steps")]


def test_separation(config, monkeypatch):
    ranked(config, monkeypatch, "before", "pointwise", {}, engine=lambda e, t, noise: Oracle(e, t, noise=20.0))
    ranked(config, monkeypatch, "after", "pointwise", {}, engine=lambda e, t, noise: Oracle(e, t, noise=0.1))
    [(passed, said)] = findings(config, separation={"before": "before", "after": "after"})
    assert passed, said
    assert not findings(config, separation={"before": "after", "after": "before"})[0][0]


def test_what_does_not_exist_is_named(config):
    config.stages = {"mechanism": CheckStage(kind="check", checks={"gatess": {}})}
    with pytest.raises(
        LookupError, match=r"stages\.mechanism\.checks\.gatess: no check is named 'gatess'.*Did you mean 'gates'"
    ):
        Experiment.of(config)
    config.stages = {"mechanism": CheckStage(kind="check", checks={"calls@top": {"stag": "x"}})}
    with pytest.raises(ValueError, match=r"stages\.mechanism\.checks\.calls@top: .*has no parameter 'stag'"):
        Experiment.of(config)
    with pytest.raises(LookupError, match="names the rerank stage 'x', which the experiment does not have"):
        findings(config, calls={"stage": "x"})
    config.stages["slid"] = RerankStage(kind="rerank")
    with pytest.raises(
        FileNotFoundError, match=r"format.json does not exist; a check reads what the stage 'slid' writes"
    ):
        findings(config, format_rate={"stage": "slid", "paradigm": "listwise"})


PAIRS = [("allpairs", None, "132.0 on average, 12 of 12 queries; 132 by the formula")]
# sliding, k = 3, N = 12: 2 (11 + 10 + 9); heapsort: at least 2 * 11, at most 4 (12 + 2 * 3)
PAIRS += [("sliding", 3, "60.0 on average, 12 of 12 queries; 60 by the formula"), ("heapsort", 3, "; 22 to 72 by the")]


@pytest.mark.parametrize(("method", "k", "said"), PAIRS)
def test_comparisons_are_as_many_as_the_formula_says(config, monkeypatch, method, k, said):
    ranked(config, monkeypatch, "pairs", "pairwise", {"method": method, "k": k})
    [(counted, found), (both, _)] = findings(config, comparisons={"stage": "pairs"})
    assert counted and both and said in found
    spoil(config, "pairs", "rollouts.jsonl", lambda rows: rows[1].update(docids=rows[0]["docids"]))
    assert [passed for passed, _ in findings(config, comparisons={"stage": "pairs"})] == [True, False]
    spoil(config, "pairs", "rollouts.jsonl", lambda rows: rows.extend(rows[:10] * 12))
    assert [passed for passed, _ in findings(config, comparisons={"stage": "pairs"})] == [False, False]


INITIAL = {"given": {}, "reversed": {"reverse": True}, "random": {"shuffle": True}}


@pytest.mark.parametrize(
    ("params", "is_invariant"), [({"method": "allpairs"}, True), ({"method": "sliding", "k": 1}, False)]
)
def test_all_pairs_do_not_depend_on_the_initial_order_and_one_pass_does(config, monkeypatch, params, is_invariant):
    for name, shown in INITIAL.items():
        ranked(config, monkeypatch, name, "pairwise", params, **shown)
    for invariant in (True, False):
        looked = {"stages": list(INITIAL), "invariant": invariant}
        [(passed, said)] = findings(config, order_invariance=looked)
        assert passed == (invariant == is_invariant), said


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["given"], "needs two rerank stages or more"),
        (["given", "again"], "'given' and 'again' show the documents in the same order"),
        (["given", "trained"], "'given' and 'trained' differ in more than the order"),
    ],
)
def test_stages_that_show_no_other_order_are_refused(config, stages, message):
    shown = {"given": {}, "again": {}, "trained": {"reverse": True, "paradigm": "listwise"}}
    config.stages = {name: RerankStage(kind="rerank", shuffle=False, **more) for name, more in shown.items()}
    config.stages["mechanism"] = CheckStage(kind="check", checks={"order_invariance": {"stages": stages}})
    with pytest.raises(ValueError, match=rf"stages\.mechanism\.checks\.order_invariance: {message}"):
        Experiment.of(config)
