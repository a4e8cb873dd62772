"""What must agree for two runs to be compared, and what may differ."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rl_rerank.config import Config, DataConfig, EngineConfig, LongDocumentsConfig, PluginConfig
from rl_rerank.data import prepare
from rl_rerank.evaluation import protocol
from rl_rerank.evaluation.protocol import Protocol, differences
from rl_rerank.io.files import write_json, write_jsonl
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.stages.rerank.spec import RerankStage

ONE = Protocol(
    split="test",
    depth=10,
    data="a" * 64,
    first_stage="b" * 64,
    dataset="c" * 64,
    paradigm="listwise",
    template="d" * 64,
    max_prompt_tokens=2048,
)


def candidates(text="the text", best=2.0):
    return [{"docid": d, "text": f"{text} {d}", "score": score} for d, score in (("x", best), ("y", 1.0))]


def config(folder, **data):
    row = {"qid": "q", "query": "what", "candidates": candidates(), "qrels": {"x": 1}, "split": "test"}
    write_jsonl(folder / "data.jsonl", [row | data])
    return Config(run_dir=str(folder), data=DataConfig(source="jsonl", path=str(folder / "data.jsonl")))


def made(config, folder, stage=None, paradigm="listwise"):
    store = prepare(config.data, folder / "data")
    stage = stage or RerankStage(kind="rerank", paradigm=paradigm)
    return protocol.protocol(config, stage, store, build_paradigm(config, paradigm) if stage.asks_model else None)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"split": "dev"}, "split test and dev"),
        ({"depth": 20}, "depth 10 and 20"),
        ({"data": "e" * 64}, "queries, judgments or texts aaaaaaaa and eeeeeeee"),
        ({"first_stage": "e" * 64}, "first stage bbbbbbbb and eeeeeeee"),
        ({"max_prompt_tokens": 512}, "max_prompt_tokens 2048 and 512"),
        ({"max_passage_tokens": 40}, "max_passage_tokens none and 40"),
        ({"template": "e" * 64}, "the wording of listwise prompts (template dddddddd and eeeeeeee)"),
    ],
)
def test_what_must_agree_is_named_where_it_does_not(changed, reason):
    assert differences(ONE, replace(ONE, **changed)) == [reason]


def test_every_difference_is_named():
    assert len(differences(ONE, replace(ONE, depth=20, first_stage="e" * 64, template="e" * 64))) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"dataset": "e" * 64},
        {"paradigm": "pointwise", "template": "e" * 64},
        {"paradigm": "listwise(window=5)", "template": "e" * 64},
        {"long_documents": "maxp(words=150, overlap=50)"},
        {"max_prompt_tokens": None},
        {"paradigm": "", "template": "", "max_prompt_tokens": None, "long_documents": ""},
    ],
)
def test_how_a_system_asks_is_part_of_the_system(changed):
    assert differences(ONE, replace(ONE, **changed)) == []


def test_a_protocol_that_was_not_recorded_is_a_difference():
    assert differences(ONE, None) == ["one of them does not say what it was made under (protocol.json is missing)"]
    assert differences(None, None) == ["neither says what it was made under (protocol.json is missing)"]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"query": "whatever"}, "data"),
        ({"qrels": {"y": 1}}, "data"),
        ({"candidates": candidates(text="another")}, "data"),
        ({"candidates": candidates(best=3.0)}, "first_stage"),
    ],
)
def test_hashes_tell_texts_and_judgments_from_the_first_stage(tmp_path, data, field):
    one = made(config(tmp_path / "one"), tmp_path / "one")
    other = made(config(tmp_path / "other", **data), tmp_path / "other")
    assert [name for name in ("data", "first_stage") if getattr(one, name) != getattr(other, name)] == [field]


def test_the_same_data_in_another_folder_make_the_same_protocol(tmp_path):
    one, other = (made(config(tmp_path / name), tmp_path / name) for name in ("one", "other"))
    assert differences(one, other) == []
    assert replace(one, dataset="") == replace(other, dataset="")


def test_a_changed_wording_changes_the_template(tmp_path, monkeypatch):
    from rl_rerank.paradigms import listwise

    whole = config(tmp_path)
    before = made(whole, tmp_path)
    ask = listwise.Listwise.prompt

    def reworded(self, example, docids):
        prompt = ask(self, example, docids)
        [*others, last] = prompt.messages
        shorter = replace(last, segments=last.segments[:-1])
        return replace(prompt, messages=(*others, shorter))

    monkeypatch.setattr(listwise.Listwise, "prompt", reworded)
    after = made(whole, tmp_path)
    [difference] = differences(before, after)
    assert difference.startswith("the wording of listwise prompts")


def test_every_member_of_a_pipeline_counts(tmp_path):
    whole = config(tmp_path)
    stages = [{"paradigm": "pointwise"}, {"paradigm": "listwise"}]
    templates = set()
    for window in (None, 2):
        stages[1]["params"] = {"window": window} if window else {}
        whole.paradigms["two"] = PluginConfig(name="pipeline", params={"stages": [dict(s) for s in stages]})
        templates.add(made(whole, tmp_path, paradigm="two").template)
    # Windows of two show two documents of the example's three at first, which is another prompt.
    assert len(templates) == 2


def test_only_what_cuts_prompts_has_a_token_budget(tmp_path):
    whole = config(tmp_path)
    assert made(whole, tmp_path).max_prompt_tokens == 2048
    whole.engine = EngineConfig(kind="openai", args={"model": "m"})
    assert made(whole, tmp_path).max_prompt_tokens is None
    whole.engine = EngineConfig(kind="openai", args={"model": "m", "tokenizer": "t"})
    assert made(whole, tmp_path).max_prompt_tokens == 2048
    assert made(whole, tmp_path, RerankStage(kind="rerank", model="first_stage")).paradigm == ""


def test_parameters_and_long_documents_are_told(tmp_path):
    whole = config(tmp_path)
    whole.paradigms["listwise"] = PluginConfig(params={"window": 5, "stride": 2})
    stage = RerankStage(kind="rerank", paradigm="listwise", long_documents=LongDocumentsConfig(mode="firstp", words=60))
    found = made(whole, tmp_path, stage)
    assert (found.paradigm, found.long_documents) == ("listwise(stride=2, window=5)", "firstp(words=60, overlap=50)")


def test_a_table_says_once_what_its_rows_share():
    first = replace(ONE, paradigm="", template="", max_prompt_tokens=None)
    assert protocol.sentences({"BM25": first, "SFT": ONE, "RL": replace(ONE, long_documents="head")})[0] == (
        "Protocol: split test, depth 10, data aaaaaaaa, first stage bbbbbbbb."
    )
    told = protocol.sentences({"BM25": first, "SFT": replace(ONE, depth=5), "old": None})
    assert [sentence.partition(":")[0] for sentence in told] == [
        "Protocol of BM25",
        "Protocol of SFT",
        "Protocol of old",
        "Prompts of SFT",
    ]


def test_a_protocol_comes_back_as_it_was_written(tmp_path):
    protocol.write(tmp_path, ONE)
    assert protocol.read(tmp_path) == ONE
    assert protocol.read(tmp_path / "elsewhere") is None
    write_json(tmp_path / protocol.FILE, {"depth": 5})
    with pytest.raises(ValueError, match=r"protocol.json holds no protocol .*run the rerank stage again"):
        protocol.read(tmp_path)
