"""The synthesis stage: rows and a summary from a configuration."""

import json
import logging
from pathlib import Path

import pytest

from rl_rerank.config import Config, DataConfig, PluginConfig, SynthStage
from rl_rerank.paths import read_jsonl
from rl_rerank.stages import synth


def config(folder: Path, num_queries: int = 12) -> Config:
    """A run over ranking examples of three candidates and two grades each."""
    rows = [
        {
            "qid": f"q{n}",
            "query": f"query {n}",
            "split": "train" if n else "dev",
            "candidates": [{"docid": f"q{n}-{d}", "text": f"text {d}"} for d in range(3)],
            "qrels": {f"q{n}-{n % 3}": 1},
        }
        for n in range(num_queries + 1)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(source="jsonl", path=str(folder / "examples.jsonl"))
    return Config(run_dir=str(folder / "run"), data=data, paradigms={"listwise": PluginConfig(params={"window": 3})})


def run(settings: Config, **stage) -> list:
    synth.run(settings, "synth", SynthStage(kind="synth", **stage))
    return read_jsonl(Path(settings.run_dir) / "synth/rows.jsonl")


def test_the_mixture_is_written_with_a_summary_and_the_same_seed_gives_the_same_rows(tmp_path):
    settings = config(tmp_path)
    mixture = {"pointwise": 20, "listwise": 11, "groupwise": 0}
    rows = run(settings, mixture=mixture)
    assert [row["paradigm"] for row in rows] == ["pointwise"] * 20 + ["listwise"] * 11
    assert {row["qid"] for row in rows} <= {f"q{n}" for n in range(1, 13)}
    summary = json.loads((tmp_path / "run/synth/summary.json").read_text())
    assert summary["paradigms"] == {
        "pointwise": {"asked": 20, "rows": 20, "kept": 20},
        "listwise": {"asked": 11, "rows": 11, "kept": 11},
        "groupwise": {"asked": 0, "rows": 0},
    }
    assert (summary["teacher"], summary["seed"], len(summary["data"])) == ("labels", 1, 64)
    assert run(settings, mixture=mixture) == rows
    assert run(settings, mixture=mixture, seed=2) != rows


def test_too_few_rows_are_a_warning_that_says_how_many(tmp_path, caplog):
    # Two queries with three documents each: six different pointwise questions, of which each pass asks two a query.
    rows = run(config(tmp_path, num_queries=2), mixture={"pointwise": 400})
    assert 4 <= len(rows) <= 6
    assert f"synth: {len(rows)} pointwise rows of the 400 asked for: 2 training examples give no more" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING


def test_an_unknown_teacher_or_paradigm_is_a_name_that_is_not_installed(tmp_path):
    with pytest.raises(
        LookupError, match=r"no step is named 'label'; installed: labels, model. Did you mean 'labels'\?"
    ):
        run(config(tmp_path), teacher="label")
    with pytest.raises(LookupError, match="no paradigm is named 'pointwize'"):
        run(config(tmp_path), mixture={"pointwize": 1})
    assert not (tmp_path / "run/synth").exists()


def test_what_is_uploaded_is_written_whole_beside_the_rows(tmp_path):
    settings = config(tmp_path)
    run(settings, mixture={"pointwise": 3})
    (tmp_path / "run/synth/hub").mkdir()
    (tmp_path / "run/synth/hub/stale.txt").write_text("old")
    folder = synth.hub_folder(settings, "synth", SynthStage(kind="synth"))
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "rows.jsonl"]
    assert (folder / "rows.jsonl").read_bytes() == (tmp_path / "run/synth/rows.jsonl").read_bytes()
    card = (folder / "README.md").read_text()
    assert "| pointwise | 3 | 3 | kept 3 |" in card
    assert str(tmp_path) not in card
    (tmp_path / "run/synth/rows.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no rows\.jsonl: remove it and run the stage again"):
        synth.hub_folder(settings, "synth", SynthStage(kind="synth"))


STEP = """\
from dataclasses import dataclass

class Closing:
    def __init__(self, file):
        self.file = file
    def close(self):
        self.file.write_text("closed")

@dataclass(frozen=True)
class Silent:
    def __call__(self, examples, paradigm_name, paradigm, count, context):
        context.directory.mkdir(parents=True, exist_ok=True)
        context.engine = Closing(context.directory / "engine")
        context.counts["malformed"] += len(examples)
        yield from ()
"""


def test_a_step_of_ones_own_is_a_file_and_its_engine_is_closed_even_where_no_row_comes_out(tmp_path):
    (tmp_path / "mine.py").write_text(STEP)
    with pytest.raises(ValueError, match=r"made no row from 12 training examples: .*'malformed': 12"):
        run(config(tmp_path), teacher=f"{tmp_path}/mine.py:Silent", mixture={"listwise": 3})
    assert (tmp_path / "run/synth/engine").read_text() == "closed"
    assert not (tmp_path / "run/synth/rows.jsonl").exists()
