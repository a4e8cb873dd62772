"""Relevance feedback: the arithmetic against torch, and a search with vectors that learned an order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import encoders as small
from support.checked_runs import findings

from rl_rerank.config import Config, DataConfig, FeedbackConfig
from rl_rerank.data import prepare
from rl_rerank.engines.local.encoder import load_encoder
from rl_rerank.evaluation import answers
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import read_jsonl, write_jsonl
from rl_rerank.retrieval import feedback
from rl_rerank.retrieval.dense import Dense
from rl_rerank.stages.rerank import run as rerank
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.training.losses.pairwise import First

TEXTS = ("ice cave in france", "oven in paris", "sort an array in place", "the capital of france", "bread oven", "ice")


def unit(*shape: int) -> np.ndarray:
    drawn = np.random.default_rng(7).normal(size=shape)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def test_two_documents_by_hand():
    query, documents = np.array([1.0, 0.0]), np.array([[0.6, 0.8], [1.0, 0.0]])
    # Points 2 and 1 span 1, the products .6 and 1 span .4: c / 2 is 1.25.
    assert feedback.scaled(query, documents) == pytest.approx(1.25)
    # The better one's score is lower by .5; the one pair weighs 1 / (1 + 2): ln(1 + e^.5) / 3.
    assert feedback.loss(query, documents, 1.25) == pytest.approx(0.974077 / 3)


def test_a_vector_learns_as_with_torchs_adam_and_the_ranking_loss_of_first():
    query, documents = unit(1, 16)[0], unit(9, 16)
    scale = feedback.scaled(query, documents)
    vector = torch.tensor(query, requires_grad=True)
    places, points = torch.tensor(documents), torch.arange(9.0, 0, -1, dtype=torch.float64)[None]
    optimizer = torch.optim.Adam([vector], lr=1e-2)
    losses = []
    for _ in range(30):
        scores = scale * (places @ vector)[None]
        loss = First()(scores, points, torch.ones(1, 9, dtype=torch.bool)).sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert feedback.loss(query, documents, scale) == pytest.approx(losses[0], rel=1e-12)
    found = feedback.moved(query, documents, steps=30, learning_rate=1e-2)
    assert found == pytest.approx(vector.detach().numpy(), abs=1e-9)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("documents", [unit(1, 4), unit(0, 4), np.repeat(unit(1, 4), 3, axis=0)])
def test_documents_that_teach_nothing_leave_the_vector_as_it_is(documents):
    query = unit(2, 4)[1]
    assert feedback.moved(query, documents, steps=20, learning_rate=1e-3) == pytest.approx(query)


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    folder = small.make(tmp_path / "encoder")

    def embed(self: Dense, jobs) -> None:  # in this process
        encoder = load_encoder("encoder", folder)
        for job in jobs:
            job.embeddings.fill(job.texts, lambda some, role=job.embeddings.role: encoder.encode(some, role), "")

    monkeypatch.setattr(Dense, "_embed", embed)
    write_jsonl(tmp_path / "c/corpus.jsonl", [{"docid": f"d{n}", "text": text} for n, text in enumerate(TEXTS)])
    asked = [{"qid": f"q{n}", "text": q, "split": "test"} for n, q in enumerate(("ice cave", "oven"))]
    write_jsonl(tmp_path / "c/queries.jsonl", asked)
    (tmp_path / "c/qrels.tsv").write_text("q0 0 d0 1\nq1 0 d1 1\n")
    data = DataConfig(source="collection", path=str(tmp_path / "c"), depth=3, ensure_relevant=False)
    data.first_stage = Dense(encoder=str(folder))
    found = Config(run_dir=str(tmp_path / "run"), data=data)
    found.stages["first_stage"] = RerankStage(kind="rerank", model="first_stage")
    settings = FeedbackConfig(of="first_stage", steps=200, learning_rate=1e-2)
    found.stages["feedback"] = RerankStage(kind="rerank", feedback=settings)
    return found


def test_a_search_with_new_vectors_follows_the_order_that_they_learned(config):
    run_dir = Path(config.run_dir)
    examples = prepare(config.data, run_dir / "data").examples("test")
    rerank.run(config, "first_stage", config.stages["first_stage"])
    # A reranker that has the retriever's three documents worst first.
    rows = read_jsonl(run_dir / "first_stage" / answers.RANKINGS)
    for row in rows:
        row["docids"] = row["docids"][::-1]
    write_jsonl(run_dir / "first_stage" / answers.RANKINGS, rows)
    rerank.run(config, "feedback", config.stages["feedback"])
    learned = read_jsonl(run_dir / "feedback/feedback.jsonl")
    assert [(row["qid"], row["documents"], row["tau_before"], row["tau_after"]) for row in learned] == [
        (example.qid, 3, -1.0, 1.0) for example in examples
    ]
    assert all(row["loss_after"] < row["loss_before"] for row in learned)
    searched = {row["qid"]: row for row in read_jsonl(run_dir / "feedback" / answers.RANKINGS)}
    for example, row in zip(examples, rows, strict=True):
        found = searched[example.qid]
        assert len(found["docids"]) == 3 and set(found["docids"]) <= {f"d{n}" for n in range(len(TEXTS))}
        # The whole collection was searched, so documents that were no candidates may stand between.
        kept = [docid for docid in found["docids"] if docid in row["docids"]]
        assert kept == [docid for docid in row["docids"] if docid in kept] and kept
        assert found["docids"] == sorted(found["docids"], key=lambda d, f=found: -f["raw_scores"][d])
    assert set(searched["q0"]["docids"]) != set(examples[0].docids)
    summary = json.loads((run_dir / "feedback/summary.json").read_text())
    assert summary["model"] == "feedback of first_stage" and summary["num_prompts"] == 0
    asked = {"before": "first_stage", "measure": "R@3"}
    assert findings(config, relevance_feedback={"stage": "feedback", **asked}) == [
        (True, "2 of 2 queries; mean Kendall's tau -1.000 before and 1.000 after"),
        (False, "2 queries: too few to compare"),
    ]
    with pytest.raises(ValueError, match="the rerank stage 'first_stage' gives no feedback to a retriever"):
        findings(config, relevance_feedback={"stage": "first_stage", **asked})
    # A vector that fits worse than the retriever's own.
    learned[1]["loss_after"] = learned[1]["loss_before"] + 0.1
    write_jsonl(run_dir / "feedback/feedback.jsonl", learned)
    assert findings(config, relevance_feedback={"stage": "feedback", **asked})[0][0] is False


@pytest.mark.parametrize("change", ["tiny steps", "no order"])
def test_feedback_of_nothing_new_finds_the_same_documents(config, change):
    rerank.run(config, "first_stage", config.stages["first_stage"])
    path = Path(config.run_dir) / "first_stage" / answers.RANKINGS
    rows = read_jsonl(path)
    if change == "tiny steps":
        config.stages["feedback"].feedback.learning_rate = 1e-12
    else:
        write_jsonl(path, [])
    rerank.run(config, "feedback", config.stages["feedback"])
    write_jsonl(path, rows)
    before, after = (read_jsonl(Path(config.run_dir) / n / answers.RANKINGS) for n in ("first_stage", "feedback"))
    assert [row["docids"] for row in after] == [row["docids"] for row in before]
    assert after[0]["raw_scores"] == pytest.approx(before[0]["raw_scores"], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"first_stage": None},
            r"stages\.feedback\.feedback moves the vectors of data\.first_stage=dense, which is the",
        ),
        ({"of": "nowhere"}, "nowhere"),
        ({"model": "first_stage"}, "feedback of first_stage ranks what a search finds"),
        (
            {"split": "dev"},
            r"stages\.feedback\.feedback\.of names 'first_stage', which ranks split 'test' and not 'dev'",
        ),
        ({"learning_rate": 0.0}, "feedback: learning_rate must be above 0"),
        ({"top": 1}, "feedback: top must be at least 2"),
    ],
)
def test_feedback_that_cannot_be_given_is_refused_before_any_work(config, change, says):
    own = {key: value for key, value in change.items() if key in ("of", "learning_rate", "top")}
    with pytest.raises((ValueError, LookupError), match=says):
        settings = FeedbackConfig(**{"of": "first_stage", **own})
        stage = {key: value for key, value in change.items() if key in ("model", "split")}
        config.stages["feedback"] = RerankStage(kind="rerank", feedback=settings, **stage)
        if "first_stage" in change:
            config.data.first_stage = None
        Experiment.of(config)
