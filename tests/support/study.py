"""Generated collections for the study: those that its experiments name, with few short documents."""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = "cave ice glacier wave sound light speed matrix vector sum root norm mean scale shift fold".split()  # noqa: SIM905
FOLDERS = {
    "wikiqa": ("train", "dev", "test"),
    "trecqa": ("train", "dev", "test"),
    "beir-scifact": ("train", "test"),
    "beir-nfcorpus": ("train", "dev", "test"),
    "msmarco-fg": ("train", "dev"),
    "trec-dl19": ("",),
}
TINY = (
    "budget.depth=4",
    "budget.list_size=3",
    "budget.lists_per_step=2",
    "budget.sft_steps=2",
    "budget.rl_steps=2",
    "budget.rows=8",
    "budget.row_steps=2",
    "budget.rows_per_step=2",
    "budget.choice_steps=2",
    "budget.prompts_per_step=2",
    "budget.sampled_steps=1",
    "model.max_prompt_tokens=400",
)
"""Settings with which every run of the study takes moments."""


def write_collections(base: Path, queries: int = 4) -> Path:
    """Write every collection with that many queries a split, each with one relevant document of four."""
    for name, splits in FOLDERS.items():
        rng = random.Random(name)
        folder = base / name
        folder.mkdir(parents=True)
        documents, asked, qrels, run = [], [], [], []
        for split in splits:
            for number in range(queries * (3 if splits == ("train", "test") and split == "train" else 1)):
                qid, words = f"{split or 'q'}-{number}", rng.sample(WORDS, 2)
                asked.append({"qid": qid, "text": " ".join(words), **({"split": split} if split else {})})
                for rank in range(4):
                    texts = [*words, rng.choice(WORDS)] if rank == number % 4 else rng.sample(WORDS, 3)
                    documents.append({"docid": f"{qid}-{rank}", "title": "", "text": " ".join(texts)})
                    run.append(f"{qid} Q0 {qid}-{rank} {rank + 1} {9 - rank} bm25\n")
                qrels.append(f"{qid}\t0\t{qid}-{number % 4}\t1\n")
        (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
        (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
        (folder / "qrels.tsv").write_text("".join(qrels))
        (folder / "run.bm25.trec").write_text("".join(run))
    return base
