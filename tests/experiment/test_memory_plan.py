"""`rl-rerank plan`: the memory of training stages against the hardware."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rl_rerank.cli.main import main
from rl_rerank.config import Config
from rl_rerank.experiment import memory, preflight
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.stages.training import TrainingStage
from rl_rerank.training.memory import cards, estimate

ROOT = Path(__file__).parents[2]
RECIPES = ("reasonrank", "reasonrank_32b", "grouprank", "rank_r1", "rank_r1_v02", "erank", "prorank")
RECIPES += ("prp", "first", "fullrank", "curricula", "losses", "ranklist", "screening", "recgaze", "baidu")
CARDS = {"80": "h100-80g"}


def experiment(recipe, *overrides):
    config = compose("run", [f"experiment={recipe}", "report_to=[]", *overrides])
    assert isinstance(config, Config)
    return Experiment.of(config)


def training_table():
    """Rows of "How they train" in docs/systems.md."""
    page = (ROOT / "docs/systems.md").read_text(encoding="utf-8")
    section = page.split("## How they train\n")[1].split("\n## ")[0]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip().strip("`") for cell in row] for row in cells]
    return [dict(zip(head, row, strict=True)) for row in rows]


def named(recipe):
    """The hardware of the first line of a recipe's file, which docs/systems.md names too."""
    text = (ROOT / f"conf/experiment/{recipe}.yaml").read_text(encoding="utf-8")
    match = re.search(rf"experiment={recipe} data=\S+ data\.path=\S+ +(a|\d+) GPUs? of (\d+) GB\n", text)
    assert match is not None
    count = 1 if match[1] == "a" else int(match[1])
    [gpus] = {row["GPUs"] for row in training_table() if row["recipe"] == recipe}
    assert gpus == f"{count} x {match[2]} GB"
    return cards.parse(f"{count}x{CARDS[match[2]]}")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_training_stage_of_a_recipe_fits_the_cards_that_its_header_names(recipe):
    found = experiment(recipe)
    hardware = named(recipe)
    assert found.config.launcher.num_processes == hardware.count
    planned = list(memory.plan(found, list(found.stages), hardware))
    assert [p.name for p in planned] == [n for n, s in found.config.stages.items() if isinstance(s, TrainingStage)]
    for stage in planned:
        assert stage.refusal is None, stage.refusal
        assert stage.lines[-1] == f"{stage.name} fits {hardware}"
        assert ", with gradient checkpointing; " in stage.lines[0] and "the table of shapes" in stage.lines[0]
        # The last column of each component adds up to the total, to the digits that are shown.
        rows = [line.split()[-1] for line in stage.lines[2:-2] if not line.endswith("-")]
        assert sum(map(float, rows[:-1])) == pytest.approx(float(rows[-1]), abs=0.05)
        assert float(rows[-1]) < hardware.gib


@pytest.mark.slow
def test_a_stage_that_does_not_fit_is_refused_with_a_sentence_and_a_status(capsys):
    assert main(["plan", "experiment=prorank", "hardware=rtx4090-24g"]) == 1
    shown = capsys.readouterr().out
    assert "warmup fits 1 x rtx4090-24g (23.5 GiB each)" in shown
    # 4 lists x 8 documents x (8,192 tokens of a prompt + 4 of an answer)
    assert "scores does not fit: a process needs " in shown and "has up to 262,272 tokens and " in shown
    assert "optimizer step" in shown and re.search(r"\n  total +\d+\.\d\d +\d+\.\d\d\n", shown)


@pytest.mark.slow
def test_a_longest_list_that_does_not_fit_refuses_nothing_where_there_is_a_budget():
    card, size = cards.parse("rtx4090-24g"), "stages.scores.list_size=16"
    [planned] = memory.plan(experiment("prorank", size, "stages.scores.micro_batch=null"), ["scores"], card)
    assert planned.refusal is None and planned.lines[-1] == f"scores fits {card}"
    found = re.search(
        # 16 documents x (8,192 tokens of a prompt + 4 of an answer)
        r"with ([\d,]+) tokens; the longest list may have 131,136, is computed alone and would not fit; the largest "
        r"micro_batch_tokens that fits is \1$",
        planned.lines[-2],
    )
    assert found is not None and 256 <= int(found[1].replace(",", "")) < 131_136
    # Nor does one that is larger than the budget and fits; but a budget that does not fit is refused.
    budget = "stages.scores.micro_batch_tokens"
    large = cards.parse("h200-141g")
    [planned] = memory.plan(experiment("prorank", size, f"{budget}=4096"), ["scores"], large)
    assert planned.refusal is None
    assert "131,136 tokens, more than the budget of 4,096: what has as many is computed alone" in planned.lines[-2]
    [planned] = memory.plan(experiment("prorank", size, f"{budget}=1000000"), ["scores"], card)
    assert planned.refusal is not None and "a micro-batch has up to 1,000,000 tokens" in planned.refusal


def test_a_plan_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "experiment=quickstart_tokens", "hardware=cpu-64g", "launcher.kind=local"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if " fits 1 x cpu (" in line] == ["sft", "format", "grpo"]
    assert "float32, without gradient checkpointing; smollm2, whose shape is from the table" in shown
    assert list(tmp_path.iterdir()) == []


def test_more_processes_than_cards_are_refused():
    found = experiment("quickstart_tokens", "launcher=accelerate", "launcher.num_processes=4")
    [planned] = memory.plan(found, ["format"], cards.parse("2xl4-24g"))
    assert planned.refusal == "launcher.num_processes=4 are 4 a machine, which has 2 GPUs"


def test_an_unknown_model_is_no_refusal():
    [planned] = memory.plan(experiment("quickstart_tokens", "model.path=no/model"), ["sft"], cards.parse("l4-24g"))
    assert planned.refusal is None
    assert planned.lines[0].startswith("sft: the memory is not known: model.path='no/model' is not on this machine")


def test_a_dry_run_refuses_what_does_not_fit_the_gpu_that_is_there(monkeypatch):
    found = experiment("quickstart_tokens", "stages.sft.micro_batch=8", "stages.sft.batch_size=8")
    monkeypatch.setattr(estimate, "here", lambda: cards.Hardware(1, "small", 4.0))
    with pytest.raises(
        ValueError, match=r"^stages\.sft: a process needs \d+\.\d GiB in forward and backward and has 4"
    ):
        list(preflight.lines(found, ["sft"]))


@pytest.mark.parametrize("text", ["hardware=h100", "hardware=8xh100-81g"])
def test_unknown_hardware_is_an_error(text, capsys):
    assert main(["plan", "experiment=quickstart_tokens", text]) == 2
    assert "there is no card" in capsys.readouterr().err
