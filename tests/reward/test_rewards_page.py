"""docs/rewards.md, command by command, in a fresh environment: a reward is begun, installed, tried and trained on."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/rewards.md").read_text().replace(" \\\n", " ")  # commands of two lines
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    ")]
EXPERIMENT = """\
# @package _global_
defaults:
  - override /data: jsonl
  - override /model: hf
  - _self_
data: {{path: examples.jsonl, depth: 3}}
model: {{path: {model}, dtype: float32, max_prompt_tokens: 512}}
stages:
  grpo: {{kind: grpo, model: model, max_steps: 2, prompts_per_step: 2, num_generations: 2, micro_batch: 4}}
run_dir: run
"""


def example(number):
    candidates = [{"docid": f"{number}{letter}", "text": f"text {number} {letter}"} for letter in "abc"]
    split = "train" if number < 4 else "test"
    return {
        "qid": f"q{number}",
        "query": f"query {number}",
        "candidates": candidates,
        "qrels": {f"{number}b": 1},
        "split": split,
    }


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh environment that has what this one has, and a folder to work in."""
    pytest.importorskip("hatchling", reason="the dev extra has it")
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv/bin/python"
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    site = next((folder / "venv/lib").glob("python*")) / "site-packages"
    # With the .pth files that lie there, by which an editable installation is found.
    lines = [f"import site; site.addsitedir({path!r})" for path in dict.fromkeys(paths)]
    (site / "here.pth").write_text("\n".join(lines) + "\n")
    work = folder / "work"
    work.mkdir()
    return python, work


def run(environment, command):
    python, work = environment
    name, *arguments = shlex.split(command)
    if name == "pip":
        # Offline, and not editable: for that hatchling wants a package that nothing else here needs.
        arguments = [argument for argument in arguments if argument != "-e"]
        offline = ["--no-deps", "--no-build-isolation", "--no-index", "-q"]
        line = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            arguments[0],
            *offline,
            *(f"./{a}" for a in arguments[1:]),
        ]
    else:
        line = [str(python), "-m", {"rl-rerank": "rl_rerank", "pytest": "pytest"}[name], *arguments]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=work, env=variables, capture_output=True, text=True, check=False)


def test_the_commands_of_the_documentation_work_one_after_the_other(environment, tiny_model_dir):
    _, work = environment
    rows = [example(number) for number in range(6)]
    (work / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    completions = [
        {"qid": "q0", "docids": ["0a", "0b"], "completion": text} for text in ("[2] > [1]", "[1] > [2]", "?")
    ]
    (work / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in completions))
    (work / "conf/experiment").mkdir(parents=True)
    # It takes the place of ours, which would train for minutes.
    (work / "conf/experiment/quickstart_tokens.yaml").write_text(EXPERIMENT.format(model=tiny_model_dir))

    assert [shlex.split(command)[0] for command in COMMANDS].count("rl-rerank") == 5
    shown = {}
    for command in COMMANDS:
        # The experiment in the place of ours has no cold start to set a loss for.
        done = run(environment, command.replace("stages.sft.loss=completion", ""))
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        shown[command] = done.stdout
    [checked] = [text for command, text in shown.items() if " check " in command]
    assert "first_relevant: it has every property that it claims" in checked
    [replayed] = [text for command, text in shown.items() if " replay " in command]
    # the relevant document first, second, and no order: 1, 0, 0
    assert re.search(r"\nfirst_relevant +0\.3333 ", replayed)
    listed = run(environment, "rl-rerank rewards list").stdout
    assert "first_relevant(relevant=1, malformed=0.0)\n    Precision at rank 1" in listed

    [grpo] = work.glob("run-listwise-*/grpo")  # a variant of the experiment
    trained = [json.loads(line) for line in (grpo / "completions.jsonl").read_text().splitlines()]
    assert len(trained) == 2 * 2 * 2  # steps x prompts x generations
    assert all(set(row["rewards"]) == {"first_relevant", "format"} for row in trained)
    metrics = [json.loads(line) for line in (grpo / "metrics.jsonl").read_text().splitlines()]
    for figure in ("min", "max", "std", "seconds", "constant_groups"):
        assert f"rewards/first_relevant/{figure}" in metrics[0]
    assert "reward/first_relevant" in metrics[0]
