"""The checks of FIRST and FullRank on runs that do what they should, and on runs where a fault was planted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import synth_runs
from support.checked_runs import findings, made, ranked, spoil

from rl_rerank.config import Config, PluginConfig
from rl_rerank.io.files import write_json, write_jsonl
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.stages.sft.spec import SFTStage
from rl_rerank_checks import place_weights


@pytest.fixture
def config(tmp_path) -> Config:
    return made(tmp_path, queries=24)


def passes(config: Config, **checks) -> list[bool]:
    return [passed for passed, _ in findings(config, **checks)]


@pytest.mark.parametrize("labels", ["letters", "bracketed"])
def test_one_forward(config, monkeypatch, tmp_path, labels):
    params = {"window": 6, "stride": 3, "labels": labels}
    ranked(config, monkeypatch, "scored", "first_token", params)
    looked = {"one_forward": {"stage": "scored"}}
    assert findings(config, **looked) == [
        (True, "0 in 36 prompts"),
        (True, "36 of 36 windows"),
        (True, "12 of 12 queries, at most 3 windows"),
    ]
    spoil(config, "scored", "rollouts.jsonl", lambda rows: rows[0]["continuations"].popitem())
    assert passes(config, **looked) == [True, False, True]
    spoil(config, "scored", "rollouts.jsonl", lambda rows: rows.append(rows[1]))
    assert passes(config, **looked) == [True, False, False]
    path = tmp_path / "run/scored/summary.json"
    summary = json.loads(path.read_text())
    summary["cost"]["completion_tokens"] = 24
    write_json(path, summary)
    assert passes(config, **looked) == [False, False, False]


def test_answers_that_were_written_are_no_scores(config, monkeypatch):
    ranked(config, monkeypatch, "scored", "first_token", {"window": 12})

    def written(rows):
        for row in rows:
            row.update(text="A > B", continuations=None)

    spoil(config, "scored", "rollouts.jsonl", written)
    assert passes(config, one_forward={"stage": "scored"}) == [True, False, True]
    ranked(config, monkeypatch, "lists", "listwise", {"window": 12})
    with pytest.raises(LookupError, match="stage 'lists' asks with listwise, not with first_token"):
        findings(config, one_forward={"stage": "lists"})


def labelled(tmp_path: Path) -> Config:
    """A run whose synth stage has three candidates a query ranked by the labels in windows of two."""
    config = synth_runs.config(tmp_path, 5)
    window = {"window": 2, "stride": 1}
    config.paradigms["settled"] = PluginConfig(name="listwise", params={**window, "settle": True})
    config.paradigms["once"] = PluginConfig(name="listwise", params=window)
    synth_runs.run(config, {"rank": {"paradigm": "settled"}}, mixture={"listwise": 5})
    return config


def test_complete_labels(tmp_path):
    config = labelled(tmp_path)
    # Two windows, then one over the two documents that are left.
    [(whole, counted), (settles, said)] = findings(config, complete_labels={"stage": "synth"})
    assert whole and settles and counted == "5 of 5, up to 3 documents"
    assert said.startswith("tau 1.000 from 3 prompts, 0.") and said.endswith("3 documents in random order")
    spoil(config, "synth", "examples.jsonl", lambda rows: rows[0]["order"].pop())
    assert passes(config, complete_labels={"stage": "synth"}) == [False, True]
    with pytest.raises(LookupError, match="'once' is not listwise with settle=true"):
        findings(config, complete_labels={"stage": "synth", "paradigm": "once"})


def test_place_weights(tmp_path, any_tokenizer, monkeypatch):
    config = labelled(tmp_path)
    config.stages["sft"] = SFTStage(kind="sft", loss="fullrank")
    any_tokenizer.save_pretrained(tmp_path / "run/sft/model")
    targets = ["[2] > [13] > [1]", "[1] > [3] > [2]"]
    write_jsonl(tmp_path / "run/synth/rows.jsonl", [{"target": target} for target in targets])
    [(passed, said)] = findings(config, place_weights={"stage": "sft"})
    assert passed and said.startswith("2 of 2 rows; the mean weight is 1.")
    # The published search for separators, with a tokenizer that writes them otherwise: every token is of place 1.
    monkeypatch.setattr(
        place_weights.RankWeights,
        "__call__",
        lambda _, t, by: [2.0] * (len(by.encode(t, add_special_tokens=False)) + 1),
    )
    assert passes(config, place_weights={"stage": "sft"}) == [False]
    monkeypatch.undo()
    write_jsonl(tmp_path / "run/synth/rows.jsonl", [{"target": "yes"}, {"target": targets[0]}])
    assert findings(config, place_weights={"stage": "sft"})[0][1].startswith("1 of 2 rows")
    config.stages["plain"] = SFTStage(kind="sft")
    with pytest.raises(LookupError, match="'plain' is no sft stage with loss=fullrank"):
        findings(config, place_weights={"stage": "plain"})


@pytest.mark.parametrize(
    ("tokens", "calls", "passed", "said"),
    [
        (900, 5, True, "900 and 1,000 tokens, 5 and 10 calls"),
        (1000, 5, False, "1,000 and 1,000 tokens, 5 and 10 calls"),
        (900, 11, False, "900 and 1,000 tokens, 11 and 10 calls"),
        (None, 5, False, "the engine does not count tokens"),
    ],
)
def test_fewer_tokens(config, tmp_path, tokens, calls, passed, said):
    for name, cost in {
        "whole": {"prompt_tokens": tokens, "calls": calls},
        "windows": {"prompt_tokens": 1000, "calls": 10},
    }.items():
        config.stages[name] = RerankStage(kind="rerank")
        write_json(tmp_path / f"run/{name}/summary.json", {"cost": cost})
    assert findings(config, fewer_tokens={"stage": "whole", "than": "windows"}) == [(passed, said)]
    with pytest.raises(ValueError, match="tokens must be prompt_tokens, completion_tokens or tokens; got 'rounds'"):
        findings(config, fewer_tokens={"stage": "whole", "than": "windows", "tokens": "rounds"})
