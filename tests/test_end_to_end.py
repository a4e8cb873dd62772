"""The whole main job on a tiny random model, killed twice on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.process

WORDS = "cave ice glacier wave sound light speed matrix vector sum root norm mean scale shift fold bend".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Sixty queries of two words; of six documents the one that holds both words is relevant."""
    path = tmp_path_factory.mktemp("collection") / "examples.jsonl"
    rng = random.Random(0)
    rows = []
    for q in range(60):
        pair = rng.sample(WORDS, 2)
        others = [rng.sample([w for w in WORDS if w not in pair], 3) for _ in range(5)]
        texts = [[*pair, rng.choice(WORDS)], *others]
        order = rng.sample(range(6), 6)
        rows.append(
            {
                "qid": f"q{q}",
                "query": " ".join(pair),
                "candidates": [{"docid": f"q{q}d{d}", "text": " ".join(texts[d])} for d in order],
                "qrels": {f"q{q}d0": 1},
                "split": "train" if q < 40 else "test",
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(collection, model, run_dir, *more):
    return [
        sys.executable, "-m", "rl_rerank", "run", "experiment=quickstart_tokens",
        "data=jsonl", f"data.path={collection}",
        f"run_dir={run_dir}", f"model.path={model}", "model.max_prompt_tokens=1024",
        "budget=tokens_smoke", "budget.depth=6", "budget.format_prompts=2",
        "budget.train_queries=30", "budget.test_queries=10", "budget.sft_steps=6",
        "budget.format_steps=2", "budget.grpo_steps=6",
        "stages.sft.save_steps=2", "stages.grpo.save_steps=2", *more,
    ]  # fmt: skip


def killed_once(arguments, marker, log):
    """Start the command and kill its whole process group with SIGKILL as soon as `marker` exists."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(arguments, start_new_session=True, env=environment, stdout=out, stderr=out)
    deadline = time.monotonic() + 900
    while not marker.exists():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(collection, tiny_model_dir, tmp_path_factory):
    """A run that was killed during sft and during grpo, then finished by the same command."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    arguments = command(collection, tiny_model_dir, run_dir)
    log = run_dir.parent / "log.txt"
    killed_once(arguments, run_dir / "sft" / "checkpoints" / "checkpoint-2" / "manifest.json", log)
    assert not (run_dir / "sft" / "model").exists()
    killed_once(arguments, run_dir / "grpo" / "checkpoints" / "checkpoint-2" / "manifest.json", log)
    assert not (run_dir / "grpo" / "model").exists()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return run_dir, done


def test_a_killed_run_resumes_skips_what_is_done_and_ends_with_the_table(finished):
    run_dir, done = finished
    output = done.stdout + done.stderr
    for stage in ("first_stage", "synth", "untrained", "format", "sft", "sft_eval"):
        assert f"{stage}: done" in output
    for label in ("BM25 (first stage)", "untrained", "SFT", "SFT+GRPO"):
        assert label in done.stdout
    assert steps(run_dir / "sft" / "metrics.jsonl") == [1, 2, 3, 4, 5, 6]
    assert steps(run_dir / "grpo" / "metrics.jsonl") == [1, 2, 3, 4, 5, 6]
    assert sorted(set(steps(run_dir / "grpo" / "completions.jsonl"))) == [1, 2, 3, 4, 5, 6]


def test_every_row_has_intervals_and_the_shares_of_malformed_and_fallback_answers(finished):
    metrics = json.loads((finished[0] / "evaluate" / "metrics.json").read_text())
    assert [row["run"] for row in metrics["rows"]] == ["first_stage", "untrained", "sft_eval", "grpo_eval"]
    for row in metrics["rows"]:
        low, high = row["interval"]["nDCG@10"]
        assert low <= row["mean"]["nDCG@10"] <= high
    for name in ("untrained", "sft_eval", "grpo_eval"):
        row = next(row for row in metrics["rows"] if row["run"] == name)
        assert row["malformed"] == 0.0 and row["fallback"] == 0.0
        assert set(metrics["format"][name]) == {"pointwise", "listwise", "groupwise"}


def test_the_export_loads_and_ranks(finished):
    code = (
        "import sys; from rl_rerank.serving.reranker import Reranker\n"
        "ranked = Reranker.load(sys.argv[1]).rank('cave ice', ['sound wave', 'cave ice', 'light'], top_n=2)\n"
        "assert len(ranked) == 2 and ranked[0][1] >= ranked[1][1], ranked\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished[0] / "export" / "model")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_wandb_offline_holds_config_reward_terms_and_a_completions_table(finished):
    runs = list((finished[0] / "grpo" / "wandb").glob("offline-run-*"))
    assert runs
    assert any(list(run.glob("files/media/table/completions/*.json")) for run in runs)
    files = [path for run in runs for path in run.rglob("*.wandb")]
    content = b"".join(path.read_bytes() for path in files)
    assert b"rewards/exact_match/mean" in content and b"rl_rerank" in content


def test_a_changed_setting_is_refused_with_the_difference(finished, collection, tiny_model_dir):
    arguments = command(collection, tiny_model_dir, finished[0], "stages.sft.learning_rate=5e-5")
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode != 0
    assert "stages.sft.learning_rate" in done.stderr and "5e-05" in done.stderr
