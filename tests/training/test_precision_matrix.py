"""The whole matrix of `test_precision.py` on two processes: ddp, ZeRO-1, 2 and 3."""

import shutil

import pytest
import torch
from support.launching import two_processes
from support.trained_weights import KINDS, Case, bound, change, matrix, prepare, saved, started

pytestmark = [pytest.mark.soak, pytest.mark.process]

STRATEGIES = ("ddp", "zero1", "zero2", "zero3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir):
    """References of the same number of processes, because they sample other completions than one would."""
    made = tmp_path_factory.mktemp("weights")
    prepare(made, tiny_model_dir)
    started(two_processes("ddp"), made, "reference", sorted({case.reference for case in matrix()}))
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_move_what_they_move_in_float32(folder, strategy, kind):
    cases = matrix([kind])
    started(two_processes(strategy), folder, f"{strategy}-{kind}", cases)
    for case in cases:
        found = change(folder, f"{strategy}-{kind}", case, saved(folder / "reference", case.reference))
        assert found.moved >= 0.95, (case, found)
        assert found.apart <= bound(case), (case, found)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_run_continues_from_the_same_bits(folder, strategy):
    cases = [Case(kind, dtype, "bf16", "full") for kind in ("ranking", "choice") for dtype in ("bfloat16", "float32")]
    output = f"resumed-{strategy}"
    started(two_processes(strategy), folder, output, cases)
    whole = [saved(folder / output, case) for case in cases]
    for case in cases:
        run = folder / output / case.name / case.kind
        shutil.rmtree(run / "model")
        shutil.rmtree(run / "checkpoints/checkpoint-10")
    started(two_processes(strategy), folder, output, cases)
    for case, expected in zip(cases, whole, strict=True):
        for name, weight in saved(folder / output, case).items():
            assert torch.equal(weight, expected[name]), (case, name)
