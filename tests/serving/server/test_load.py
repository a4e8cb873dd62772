"""Ten seconds of `benchmarks/serve.py`: no error under load, and batches that spare work."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve has it")

NUM_CLIENTS, SECONDS, NUM_DOCUMENTS = 16, 5.0, 8


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[3] / "benchmarks/serve.py"
    spec = importlib.util.spec_from_file_location("serve_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look up their module
    spec.loader.exec_module(module)
    return module


@pytest.mark.process
@pytest.mark.slow
def test_many_clients_are_answered_without_an_error_and_with_less_work(benchmark, tmp_path):
    numbers = itertools.count()
    folder = benchmark.tiny_export(tmp_path / "model", benchmark.PARADIGMS["listwise"])
    with benchmark.serving(folder) as address:
        benchmark.wait(address)
        alone, together = (
            benchmark.measure(address, number, SECONDS, NUM_DOCUMENTS, numbers) for number in (1, NUM_CLIENTS)
        )
    assert alone.errors == together.errors == []
    assert len(together.seconds) >= NUM_CLIENTS
    # CPU time instead of wall time, which depends on what else the machine does.
    assert alone.cpu / together.cpu > 3, (alone.row(), together.row())
