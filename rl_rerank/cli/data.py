"""`rl-rerank data`: what there is to train and to test on."""

from rl_rerank.config import Config
from rl_rerank.experiment import data_page
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment


def run(command: str, overrides: list[str], config_dir: str | None) -> int:
    """Print a line at a time; an experiment is not needed, and nothing is written."""
    config = compose(command, overrides, config_dir)
    assert isinstance(config, Config)
    Experiment.of(config)
    for line in data_page.lines(config):
        print(line, flush=True)
    return 0
