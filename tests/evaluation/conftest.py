"""A small finished experiment on disk, and its evaluation."""

import json
from pathlib import Path

import pytest
from support import finished_run

from rl_rerank.config import Config


@pytest.fixture
def experiment(tmp_path: Path) -> Config:
    """The configuration of an experiment whose rerank and training stages have run."""
    return finished_run.experiment(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The same experiment with its evaluate and report stages run; only to be read."""
    return finished_run.report(finished_run.experiment(tmp_path_factory.mktemp("finished")))


@pytest.fixture
def large_experiment(tmp_path: Path) -> Config:
    """`experiment` with the queries of the larger one."""
    return finished_run.experiment(tmp_path, finished_run.ENOUGH)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """`finished` with the queries of the larger one."""
    return finished_run.report(finished_run.experiment(tmp_path_factory.mktemp("large"), finished_run.ENOUGH))


@pytest.fixture(scope="session")
def metrics(finished: Config) -> dict:
    """What the evaluate stage writes."""
    return json.loads((Path(finished.run_dir) / "evaluate" / "metrics.json").read_text())
