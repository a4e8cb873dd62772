"""The cross-encoder engine against the model itself, one unpadded pair at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.cross_encoders import make
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rl_rerank.config import Config, EngineConfig, ModelConfig
from rl_rerank.engines.base import Capability
from rl_rerank.engines.build import build_engine, build_stage_engine
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, RankingExample, Sampling

pytest.importorskip("sentence_transformers", reason="the extra cross-encoder has it")

EXAMPLE = RankingExample(
    "q",
    "how to sort an array",
    (
        Candidate("a", "the capital of france is paris"),
        Candidate("b", "sort an array in place " * 30),
        Candidate("c", "the number of elements", title="a title"),
        Candidate("d", "stable [SEP] sort"),
    ),
    instruction="the sort is stable",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("models") / "encoder")


def plain(folder: Path, query: str, document: str) -> float:
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pair = tokenizer(query, document, truncation=True, max_length=64, split_special_tokens=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**pair).logits.item()


def test_scores_are_the_models_own_logits_whatever_the_batch(folder):
    query = f"{EXAMPLE.query} {EXAMPLE.instruction}"
    documents = {c.docid: f"{c.title} {c.text}".strip() for c in EXAMPLE.candidates}
    expected = {docid: plain(folder, query, text) for docid, text in documents.items()}
    for batch_size in (1, 32):
        engine = build_engine(
            EngineConfig(kind="cross_encoder", args={"batch_size": batch_size}), ModelConfig(), folder
        )
        [ranking], rollouts = rerank([EXAMPLE], Pointwise(), engine)
        found = {r.prompt.docids[0]: r.judgment.scores[r.prompt.docids[0]] for r in rollouts}
        assert found == pytest.approx(expected, abs=1e-5)
        assert list(ranking.docids) == sorted(expected, key=lambda d: -expected[d])
        for rollout in rollouts:
            probabilities = torch.tensor(list(rollout.completion.continuations.values())).exp()
            assert probabilities.sum().item() == pytest.approx(1.0)


def test_a_document_that_spells_out_a_control_token_does_not_have_it(folder):
    engine = build_engine(EngineConfig(kind="cross_encoder"), ModelConfig(), folder)
    ids = engine.tokenizer("sort", "stable [SEP] sort")["input_ids"]
    assert ids.count(engine.tokenizer.sep_token_id) == 2


def test_budgets_cut_the_pair_and_the_document(folder):
    prompts = [Pointwise().prompt(EXAMPLE, ["b"])]
    values = []
    for model in (ModelConfig(), ModelConfig(max_prompt_tokens=16), ModelConfig(max_passage_tokens=3)):
        engine = build_engine(EngineConfig(kind="cross_encoder"), model, folder)
        values.append(engine.score(prompts, ["yes", "no"])[0].continuations["yes"])
        asked = engine.render(prompts[0])
        assert asked[2] == min(64, model.max_prompt_tokens)
        assert (asked[1] == "sort an array") is (model.max_passage_tokens == 3)
    assert len(set(values)) == 3


def test_every_answer_is_told(folder):
    engine = build_engine(EngineConfig(kind="cross_encoder"), ModelConfig(), folder)
    told = []
    prompts = [Pointwise().prompt(EXAMPLE, [docid]) for docid in EXAMPLE.docids]
    answers = engine.score(prompts, ["yes", "no"], lambda place, sample, c: told.append((place, sample, c)))
    assert told == [(place, 0, c) for place, c in enumerate(answers)]


def test_it_serves_pointwise_scoring_and_nothing_else(folder):
    engine = build_engine(EngineConfig(kind="cross_encoder"), ModelConfig(), folder)
    assert engine.capabilities == {Capability.pair, Capability.duo}
    with pytest.raises(ValueError, match="serves the paradigm 'pointwise' alone; got 'listwise'"):
        rerank([EXAMPLE], Listwise(), engine)
    with pytest.raises(ValueError, match="one document a prompt; the listwise prompt of qid 'q' shows 3"):
        engine.score([Listwise().prompt(EXAMPLE, ["a", "b", "c"])], ["yes", "no"])
    with pytest.raises(ValueError, match="generates no text"):
        engine.generate([Pointwise().prompt(EXAMPLE, ["a"])], Sampling(4))


def test_of_two_documents_it_reads_both_with_half_of_the_room_each(folder):
    engine = build_engine(EngineConfig(kind="cross_encoder"), ModelConfig(), folder)
    paradigm = Pairwise(mode="scoring")
    query = f"{EXAMPLE.query} {EXAMPLE.instruction}"  # 10 words, so that (64 - 10 - 8) / 2 = 23 are left for each
    long = " ".join(("sort an array in place " * 30).split()[:23])
    asked = [paradigm.prompt(EXAMPLE, pair) for pair in (("a", "c"), ("c", "a"), ("b", "a"))]
    a, c = "the capital of france is paris", "a title the number of elements"
    texts = [f"{a} | {c}", f"{c} | {a}", f"{long} | {a}"]
    assert [engine.render(prompt) for prompt in asked] == [[query, text, 64] for text in texts]
    for answer, text in zip(engine.score(asked, paradigm.continuations), texts, strict=True):
        x = answer.continuations["A"] - answer.continuations["B"]
        assert x == pytest.approx(plain(folder, query, text), abs=1e-5)


def test_models_without_one_number_for_a_pair_are_refused(tmp_path, tiny_model_dir):
    with pytest.raises(ValueError, match="holds LlamaForCausalLM, which is no cross-encoder"):
        build_engine(EngineConfig(kind="cross_encoder"), ModelConfig(), tiny_model_dir)
    with pytest.raises(ValueError, match="gives 2 numbers for a pair"):
        build_engine(EngineConfig(kind="cross_encoder"), ModelConfig(), make(tmp_path / "two", num_labels=2))


def test_a_stage_finds_the_cross_encoder_that_its_engine_names(tmp_path, folder):
    config = Config(model=ModelConfig(path="/nowhere"), journal=str(tmp_path / "journal.sqlite"))
    own = EngineConfig(kind="cross_encoder", args={"model": str(folder)})
    prompts = [Pointwise().prompt(EXAMPLE, [docid]) for docid in EXAMPLE.docids]
    for asked in (4, 0):
        engine = build_stage_engine(config, "model", own)
        engine.score(prompts, ["yes", "no"])
        assert engine.usage["asked"] == asked
        engine.close()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    path = make(tmp_path / "encoder")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["homeless"])
    tokenizer.save_pretrained(path)
    size = len(tokenizer)
    with pytest.raises(ValueError, match=f"has {size} tokens and the model embeds {size - 1}, so that 'homeless' have"):
        build_engine(EngineConfig(kind="cross_encoder", args={"model": str(path)}), ModelConfig(), path)
