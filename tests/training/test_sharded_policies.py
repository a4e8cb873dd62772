"""Policies without rollouts: two processes train as one does, with a reference, by ddp and sharded by ZeRO-3."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.launching import run, two_processes
from support.sharded_policies import MADE, STEPS

SCRIPT = str(Path(__file__).parents[1] / "support/sharded_policies.py")


@pytest.fixture(scope="module")
def alone(tiny_model_dir, tmp_path_factory):
    return run([sys.executable], tiny_model_dir, tmp_path_factory.mktemp("alone"), SCRIPT)


@pytest.fixture(scope="module", params=["ddp", "zero3"])
def together(request, tiny_model_dir, tmp_path_factory):
    return run(two_processes(request.param), tiny_model_dir, tmp_path_factory.mktemp(request.param), SCRIPT)


@pytest.mark.parametrize("policy", MADE)
def test_two_processes_train_a_policy_as_one_does(alone, together, tiny_model_dir, policy):
    one, two = (json.loads((folder / policy / "history.json").read_text()) for folder in (alone, together))
    assert (one["world"], two["world"]) == (1, 2)
    rows = list(zip(one["rows"], two["rows"], strict=True))
    assert len(rows) == STEPS
    for a, b in rows:
        for name in ("grad_norm", "loss", "reward", "entropy", "kl"):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-6), name
    assert rows[-1][0]["kl"] > 1e-5
    first, second = (torch.load(folder / policy / "weights.pt") for folder in (alone, together))
    start = load_file(tiny_model_dir / "model.safetensors")
    moved = max((first[name] - start[name]).abs().max() for name in first if name in start)
    apart = max((first[name] - second[name]).abs().max() for name in first)
    assert moved >= 1e-4 and apart <= 1e-2 * moved
