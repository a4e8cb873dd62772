"""`rl-rerank data`: what there is to train and to test on."""

from collections.abc import Sequence

from rl_rerank.config import Config
from rl_rerank.experiment import data_page
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment


def run(arguments: Sequence[str], config_dir: str | None) -> tuple[list[str], int]:
    """Lines to print, and the exit status. An experiment is not needed, and nothing is written."""
    config = compose("data", arguments, config_dir)
    assert isinstance(config, Config)
    Experiment.of(config)
    return list(data_page.lines(config)), 0
