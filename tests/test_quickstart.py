"""The quickstart on a tiny random model: all rows, fusions with weights chosen on dev queries, and an export."""

import json
import os
import random
import re
import shutil
import subprocess
import sys

import pytest
from support.documented_commands import commands
from support.documented_folder import READ_A_RUN, substituted, write_files

from rl_rerank.cli.main import main
from rl_rerank.serving import Reranker

pytestmark = pytest.mark.process

WORDS = "cave ice glacier wave sound light speed matrix vector sum root norm mean scale shift fold".split()  # noqa: SIM905
ROWS = [
    "first_stage", "bi_encoder", "bi_encoder_fused", "untrained", "untrained_fused", "sft_eval", "rl_eval", "rl_fused"
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    rng = random.Random(0)
    with (folder / "examples.jsonl").open("w") as file:
        for q in range(30):
            query = rng.sample(WORDS, 2)
            texts = [" ".join([*query, rng.choice(WORDS)]), *(" ".join(rng.sample(WORDS, 3)) for _ in range(4))]
            row = {
                "qid": f"q{q}",
                "query": " ".join(query),
                "candidates": [{"docid": f"q{q}d{d}", "text": texts[d]} for d in rng.sample(range(5), 5)],
                "qrels": {f"q{q}d0": 1},
                "split": "train" if q < 20 else "dev" if q < 25 else "test",
            }
            file.write(json.dumps(row) + "\n")
    settings = [
        *("experiment=quickstart", "budget=smoke", "budget.depth=5", "data=jsonl", "data.path=examples.jsonl"),
        *("report_to=[]", f"model.path={tiny_model_dir}", "model.max_prompt_tokens=400"),
    ]
    command = [sys.executable, "-m", "rl_rerank", "run", *settings, "run_dir=run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "run", done.stdout, done.stderr, settings


def test_every_row_is_in_the_table_and_every_weight_was_chosen_on_dev_queries(finished):
    run_dir, shown, *_ = finished
    metrics = json.loads((run_dir / "evaluate/metrics.json").read_text())
    assert [row["run"] for row in metrics["rows"]] == ROWS
    for row in metrics["rows"]:
        assert row["label"] in shown
    assert len(metrics["comparisons"]) == 6
    for name in ("bi_encoder_fused", "untrained_fused", "rl_fused"):
        fusion = json.loads((run_dir / name / "summary.json").read_text())["fusion"]
        assert fusion["runs"][1] == "first_stage_dev" and max(fusion["values"]) > 0


def test_both_trainings_take_every_step_and_reward_orders(finished):
    rows = {
        name: [json.loads(line) for line in (finished[0] / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("sft", "rl")
    }
    assert [row["step"] for row in rows["sft"]] == [row["step"] for row in rows["rl"]] == [1, 2, 3]
    assert all(0 < row["reward"] <= 1 for row in rows["rl"])


def test_the_export_ranks(finished):
    reranker = Reranker.load(finished[0] / "export/model")
    assert len(reranker.rank("cave ice", ["sound wave", "cave ice"])) == 2


READING = list({c.words: c for c in commands() if c.words[1:2] and c.words[1] in READ_A_RUN}.values())


@pytest.mark.parametrize("found", READING, ids=lambda found: f"{found.place} {found.text}")
def test_documented_commands_about_finished_runs(finished, found, tmp_path, monkeypatch, capsys):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    words = [word.replace("hf,vllm,", "hf,") for word in substituted(found.words)]  # vLLM has a test of its own
    for name in set(re.findall(r"runs/([\w-]+)", " ".join(words))):
        (tmp_path / "runs" / name).symlink_to(finished[0])
    assert main(words[1:]) == 0, capsys.readouterr().err


def test_the_report_and_the_log_show_what_the_data_hold(finished):
    page = (finished[0] / "report/index.html").read_text()
    assert "<h2>Data</h2>" in page and "oracle nDCG@10" in page
    assert re.search(r"<td>train</td>\s*<td>20</td>\s*<td>20</td>", page)
    assert re.search(r"data: train +20 +20 +0 +5\.0", finished[2])


def test_a_finished_run_is_evaluated_without_the_data_it_was_made_from(finished, tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "brought"
    shutil.copytree(finished[0], run_dir)
    monkeypatch.chdir(tmp_path)
    for command in ("evaluate", "report", "export"):
        assert main([command, *finished[3], f"run_dir={run_dir}"]) == 0, capsys.readouterr().err
