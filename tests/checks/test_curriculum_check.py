"""The weights of a curriculum's pairs as a stage logs them, and as faults would leave them."""

from pathlib import Path

import pytest
from support.checked_runs import findings, made

from rl_rerank.config import CurriculumConfig
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import write_jsonl
from rl_rerank.stages.check.spec import CheckStage
from rl_rerank.stages.sft.spec import SFTStage

EASES = (0.3, 0.6, 0.8)
STEPS, END = 8, 4


@pytest.fixture
def config(tmp_path):
    config = made(tmp_path, queries=4)
    curriculum = CurriculumConfig(kind="reciprank", steps=END)
    config.stages["sft"] = SFTStage(kind="sft", loss="ranknet", batch_size=4, curriculum=curriculum)
    return config


def logged(config, weights):
    """Write the log of `weights(ease, step)`."""
    rows = []
    for step in range(STEPS):
        found = [weights(ease, step) for ease in EASES]
        ends = {"curriculum/weight/min": min(found), "curriculum/weight/max": max(found)}
        rows.append({"step": step + 1, "loss": 0.5, "curriculum/weight": sum(found) / len(found), **ends})
    write_jsonl(Path(config.run_dir) / "sft/metrics.jsonl", rows)


def true(ease, step):
    return ease + step / END * (1 - ease) if step < END else 1.0


def test_weights_as_in_the_paper_pass(config):
    logged(config, true)
    assert findings(config, curriculum={"stage": "sft"}) == [
        # The mean ease is 1.7 / 3 = .567; in step 3 of 4 a weight is .25 D + .75.
        (True, "8 of 8 steps; 0.567 in the first, 0.892 in the last before the end"),
        (True, "4 of 4 steps"),
        (True, "D is 0.300 to 0.800"),
        (True, "4 of 4 steps"),
    ]


@pytest.mark.parametrize(
    ("weights", "passes"),
    [
        (lambda ease, step: 1.0, (True, False, True, True)),  # no curriculum
        (lambda ease, step: true(sum(EASES) / 3, step), (True, False, True, True)),  # a batch's mean for all
        (lambda ease, step: true(ease - 0.5, step), (False, True, False, True)),  # ease below 0
        (lambda ease, step: true(ease, step / 2), (True, True, False, False)),  # ends too late
        (lambda ease, step: 2 * true(ease, step), (False, True, False, False)),
        (lambda ease, step: ease, (True, True, False, False)),  # does not rise
    ],
)
def test_other_weights_fail(config, weights, passes):
    logged(config, weights)
    assert tuple(passed for passed, _ in findings(config, curriculum={"stage": "sft"})) == passes


def test_a_log_without_weights_fails(config):
    write_jsonl(Path(config.run_dir) / "sft/metrics.jsonl", [{"step": 1, "loss": 0.5}])
    assert not any(passed for passed, _ in findings(config, curriculum={"stage": "sft"}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"curriculum": None}, "'sft' is no earlier stage with a curriculum of a ranking loss"),
        ({"trl": {"logging_steps": 5}}, "'sft' logs means of 5 steps"),
    ],
)
def test_a_stage_whose_weights_cannot_be_seen_is_refused_before_the_run(config, change, says):
    for name, value in change.items():
        setattr(config.stages["sft"], name, value)
    config.stages["mechanism"] = CheckStage(kind="check", checks={"curriculum": {"stage": "sft"}})
    with pytest.raises((LookupError, ValueError), match=says):
        Experiment.of(config)
