"""MTEB evaluates an exported model on a local task to the nDCG of `rl-rerank evaluate`."""

from __future__ import annotations

import json

import pytest
from support.exported import export

from rl_rerank.cli.main import main
from rl_rerank.io.trec import write_qrels
from rl_rerank.paradigms.build import make
from rl_rerank.serving import Reranker

pytestmark = pytest.mark.slow
mteb = pytest.importorskip("mteb")
tasks = pytest.importorskip("mteb.abstasks")

QUERIES = {f"q{i}": f"{word} in winter" for i, word in enumerate(("ice", "bread", "tides", "caves", "sorting"))}
WORDS = ("glacier", "flour", "moon", "array", "melt water", "ice cave", "numpy", "salt")
CORPUS = {f"d{i}": f"a text about {word} number {i % 3} and {WORDS[(i * 3) % 8]}" for i, word in enumerate(WORDS * 3)}
CANDIDATES = {qid: [f"d{(5 * i + 7 * k) % 24}" for k in range(12)] for i, qid in enumerate(QUERIES)}
QRELS = {qid: {docid: 3 - k // 3 for k, docid in enumerate(docids[2:11])} for qid, docids in CANDIDATES.items()}


def local_task():
    from datasets import Dataset

    class Local(tasks.AbsTaskRetrieval):
        metadata = mteb.TaskMetadata(
            name="Local",
            description="A local reranking task.",
            dataset={"path": "none/none", "revision": "1"},
            type="Reranking",
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, **_) -> None:
            split = {
                "corpus": Dataset.from_list([{"id": k, "title": "", "text": text} for k, text in CORPUS.items()]),
                "queries": Dataset.from_list([{"id": k, "text": text} for k, text in QUERIES.items()]),
                "relevant_docs": QRELS,
                "top_ranked": CANDIDATES,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Local()


def by_mteb(model) -> float:
    results = mteb.evaluate(model, [local_task()], cache=None, overwrite_strategy="always")
    [scores] = results.task_results[0].scores["test"]
    return scores["ndcg_at_10"]


def by_us(folder, tmp_path) -> float:
    reranker = Reranker.load(folder)
    lines = []
    for qid, docids in CANDIDATES.items():
        ranked = reranker.rank(QUERIES[qid], [CORPUS[docid] for docid in docids])
        lines += [f"{qid} Q0 {docids[index]} {place} {score!r} ours" for place, (index, score) in enumerate(ranked, 1)]
    (tmp_path / "run.trec").write_text("\n".join(lines) + "\n")
    write_qrels(tmp_path / "qrels", QRELS)
    output = tmp_path / "measures.json"
    given = [f"run={tmp_path / 'run.trec'}", f"qrels={tmp_path / 'qrels'}", f"output={output}"]
    assert main(["evaluate", *given, "measures=[nDCG@10]"]) == 0
    return json.loads(output.read_text())["mean"]["nDCG@10"]


@pytest.mark.parametrize("paradigm", ["pointwise", "first_token"])
def test_mteb_measures_what_evaluate_measures(tiny_model_dir, tmp_path, paradigm):
    from rl_rerank.serving.mteb import MTEBReranker

    folder = export(tiny_model_dir, tmp_path / "model", make(paradigm, {}))
    expected = by_us(folder, tmp_path)
    assert 0 < expected < 1
    assert by_mteb(MTEBReranker.load(str(folder))) == pytest.approx(expected, abs=1e-5)
    if paradigm == "pointwise":  # MTEB's own door to the same folder
        from sentence_transformers import CrossEncoder

        assert by_mteb(CrossEncoder(str(folder), local_files_only=True)) == pytest.approx(expected, abs=1e-5)
