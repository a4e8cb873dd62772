"""Long documents in training: the passages of ranking, and scores of documents from those of their passages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl_rerank.config import Config, LongDocumentsConfig
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.packed.forward import plainly_scored
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking import long_documents
from rl_rerank.stages.plugins import Plugins
from rl_rerank.training.exact.lists import ListCollator, combined, lists, reading
from rl_rerank.training.loop.rows import tokenised
from rl_rerank.training.loop.training_prompts import Questions
from rl_rerank.types import Candidate, Ranking, RankingExample

TEXTS = {
    "long": "salt melts ice. rain falls on hills. sheep like salt and grass. ice is cold water.",
    "mid": "grass grows in rain. hills are high.",
    "short": "ice melts.",
}
EXAMPLE = RankingExample(
    "q",
    "what melts ice",
    tuple(Candidate(docid, text, rank=rank) for rank, (docid, text) in enumerate(TEXTS.items(), start=1)),
    {"short": 2, "mid": 1},
)
MODES = {
    "head": LongDocumentsConfig(),
    "firstp": LongDocumentsConfig(mode="firstp", words=4, overlap=1),
    "maxp": LongDocumentsConfig(mode="maxp", words=4, overlap=1),
    "sump": LongDocumentsConfig(mode="sump", words=4, overlap=1),
    "quite": LongDocumentsConfig(mode="quite", sentences=1),
}


@pytest.fixture
def renderer(chatml_tokenizer):
    return Renderer(chatml_tokenizer, max_prompt_tokens=400)


def ranked_prompts(paradigm: Any, how: LongDocumentsConfig, renderer: Renderer) -> list[tuple[int, ...]]:
    """The prompts of a rerank stage in its first round."""
    return [renderer(p).token_ids for p in next(paradigm.strategy(long_documents.view(EXAMPLE, how).example))]


@pytest.mark.parametrize("mode", MODES)
def test_lists_show_the_passages_that_ranking_shows(renderer, mode):
    [one] = lists([EXAMPLE], Pointwise(), renderer, count=1, size=None, seed=1, long_documents=MODES[mode])
    assert sorted(map(tuple, one.prompts)) == sorted(ranked_prompts(Pointwise(), MODES[mode], renderer))
    # 16, 7 and 2 words: passages of 4 words begin every 3 words, while more than 1 word is left
    expected = {"long": 5, "mid": 2, "short": 1}
    splits = mode in ("maxp", "sump")
    assert one.passages == (tuple(expected[docid] for docid in one.docids) if splits else None)
    assert set(one.docids) == set(TEXTS)


def test_modes_differ_from_each_other(renderer):
    shown = {mode: tuple(sorted(ranked_prompts(Pointwise(), how, renderer))) for mode, how in MODES.items()}
    assert shown["maxp"] == shown["sump"] and len(set(shown.values())) == 4


@pytest.mark.parametrize("mode", ["firstp", "quite"])
def test_completions_and_rows_show_the_texts_that_ranking_shows(renderer, mode):
    how = MODES[mode]
    [asked] = Questions([EXAMPLE], Listwise(window=None), renderer, count=1, seed=1, long_documents=how)
    seen = long_documents.view(EXAMPLE, how).example
    assert tuple(asked.token_ids) == renderer(Listwise(window=None).prompt(seen, asked.prompt.docids)).token_ids
    assert asked.example == seen

    class OneExample:
        def example(self, qid: str) -> RankingExample:
            return EXAMPLE

    row = {"qid": "q", "paradigm": "listwise", "docids": list(TEXTS), "target": "[3] > [2] > [1]"}
    paradigms = {"listwise": Listwise(window=None)}
    [made] = tokenised([row], OneExample(), paradigms, renderer, long_documents=how)
    question = renderer(paradigms["listwise"].prompt(seen, list(TEXTS))).token_ids
    assert tuple(made["input_ids"][: len(question)]) == question
    [plain] = tokenised([row], OneExample(), paradigms, renderer)
    assert plain != made


def test_summaries_weight_words_by_all_candidates_as_ranking_does(renderer):
    """A list of two documents is summarised by the words of all three."""
    how = MODES["quite"]
    shown = set(ranked_prompts(Pointwise(), how, renderer))
    for one in lists([EXAMPLE], Pointwise(), renderer, count=6, size=2, seed=1, long_documents=how):
        assert len(one.docids) == 2 and set(map(tuple, one.prompts)) < shown


def test_a_passage_is_answered_as_its_document(renderer):
    [one] = lists(
        [EXAMPLE], Pointwise(), renderer, count=1, size=None, seed=1, with_answers=True, long_documents=MODES["maxp"]
    )
    [yes], [no] = renderer.continuation_ids("yes"), renderer.continuation_ids("no")
    assert one.passages is not None
    expected = [
        (yes if EXAMPLE.qrels.get(docid, 0) else no, renderer.end_id)
        for docid, count in zip(one.docids, one.passages, strict=True)
        for _ in range(count)
    ]
    assert list(one.answers) == expected
    assert len(one.prompts) == len(one.answers) == 8


@pytest.mark.parametrize("mode", ["maxp", "sump"])
def test_scores_of_documents_are_those_of_ranking(renderer, tiny_model_dir, mode):
    how = MODES[mode]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    found = lists([EXAMPLE], Pointwise(), renderer, count=2, size=2, seed=3, long_documents=how)
    read = reading(Pointwise(), renderer, how)
    batch = ListCollator(found, read, with_answers=True)([{"index": 0}, {"index": 1}])
    scores = read.scores(plainly_scored(model, batch["packed"].sequences, pad_id=0), batch)
    seen = long_documents.view(EXAMPLE, how)
    alone = {}
    for docid in seen.example.docids:
        ids = renderer(Pointwise().prompt(seen.example, [docid])).token_ids
        logits = model(torch.tensor([ids])).logits[0, -1]
        alone[docid] = (logits[read.ids[0]] - logits[read.ids[1]]).item()
    ranking = Ranking("q", seen.example.docids, alone, raw_scores=alone)
    expected = long_documents.aggregate(EXAMPLE, seen, ranking, mode=mode, scale="log_odds").raw_scores
    assert expected is not None
    for row, one in enumerate(found):
        assert scores[row].tolist() == pytest.approx([expected[docid] for docid in one.docids], abs=1e-4)


def test_the_best_passage_has_all_of_a_documents_gradient():
    scores = torch.tensor([1.0, 3.0, 2.0, -1.0], requires_grad=True)
    combined(scores, torch.tensor([0, 0, 0, 1]), 2, "maxp")[0].backward()
    assert scores.grad is not None and scores.grad.tolist() == [0, 1, 0, 0]


def checked(*overrides: str, experiment: str = "quickstart") -> Config:
    config = compose("run", [f"experiment={experiment}", *overrides])
    assert isinstance(config, Config)
    Experiment.of(config)
    return config


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["stages.rl.long_documents.mode=maxp", "stages.rl.policy.kind=choice", "stages.rl.num_generations=8"],
            "this stage trains answers, which are no scores; choose firstp",
        ),
        (["stages.sft.long_documents.words=20"], "overlap must be from 0 to words - 1"),
        (["stages.sft.long_documents.mode=best"], "must be one of head, firstp, maxp, sump, quite; got 'best'"),
    ],
)
def test_combinations_that_cannot_be_are_refused(overrides: Sequence[str], says: str):
    with pytest.raises(ValueError, match=says):
        checked(*overrides)


def test_passages_alone_are_refused_where_a_prompt_shows_several_documents():
    with pytest.raises(ValueError, match="'first_token' shows several documents in one prompt; choose firstp"):
        checked("data=pydocs", "stages.sft.long_documents.mode=sump", experiment="study/first_token")
    checked("data=pydocs", "stages.sft.long_documents.mode=quite", experiment="study/first_token")


def test_settings_that_differ_between_training_and_ranking_are_shown():
    # rl_eval is fused, with a weight that is chosen for the same system on other queries.
    ranked = ["stages.rl_eval.long_documents.mode=firstp", "stages.rl_dev.long_documents.mode=firstp"]
    config = checked("stages.sft.long_documents.mode=maxp", *ranked)
    plugins = Plugins(config)
    lines = {name: config.stages[name].describe(name, plugins) for name in ("sft", "sft_eval", "rl_eval", "untrained")}
    assert lines["sft"][-1].startswith("long documents: maxp(words=150, overlap=50), a prompt for each passage")
    assert lines["sft_eval"][-1].endswith(", long documents head; trained with maxp(words=150, overlap=50)")
    assert lines["rl_eval"][-1].endswith(", long documents firstp(words=150, overlap=50); trained with head")
    assert lines["untrained"][-1].endswith("candidates each")


def test_runs_from_before_the_setting_stay_what_they_are():
    config = checked()
    stage: Any = config.stages["sft"]
    assert "long_documents" not in stage.recorded({"long_documents": {}, "seed": 1})
    stage.long_documents = MODES["maxp"]
    assert "long_documents" in stage.recorded({"long_documents": {}, "seed": 1})
