"""Settings that name what does not exist, or do not fit each other, are refused when an experiment is resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_rerank.config import Config
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment


@pytest.mark.parametrize(
    ("overrides", "fragment"),
    [
        (
            ["stages.sft_eval.model=sftt"],
            "stages.sft_eval.model names 'sftt', which is no stage; it can be: model, first_stage, sft, format",
        ),
        (
            ["stages.grpo.model=synth"],
            "stages.grpo.model names 'synth', of kind synth; it must be a stage that leaves a model",
        ),
        (["stages.untrained.model=sft"], "stages.untrained.model names 'sft', which does not come before it"),
        (["stages.format.data=sft"], "stages.format.data names 'sft'"),
        (["stages.evaluate.runs=[sft]"], "stages.evaluate.runs names 'sft', of kind sft"),
        (["stages.evaluate.comparisons=[[sft_eval]]"], "a comparison is a pair [system, baseline]; got ['sft_eval']"),
        (["stages.evaluate.measures=[nDGC@10]"], "nDGC@10"),
        (["+stages.evaluate.seeds.two=[sft_eval,sft]"], "stages.evaluate.seeds.two names 'sft', of kind sft"),
        (
            ["stages.export.model=modle"],
            "stages.export.model names 'modle', which is no stage; it can be: model, sft, format, grpo",
        ),
        (["stages.untrained.split=tests"], "stages.untrained.split must be one of train, dev, test; got 'tests'"),
        (["stages.data.kind=report"], "stages.data: a stage's name is its folder's"),
        (["reward=[]"], "stages.grpo has no reward to train on"),
        (["rewards.bare.target={folder}/bare.py:Bare"], "reward 'bare' needs its parameter 'x', which has no default"),
        (["rewards.odd.target={folder}/odd.py:Odd"], "odd.py:1' does not import: SyntaxError: "),
        (["reward=[ndcg]", "rewards.ndcg.params.kk=3"], "reward 'ndcg' has no parameter 'kk'; it has: k"),
        (["rewards.mine.weight=1"], "no reward is named 'mine'"),
        (["paradigm=pontwise"], "no paradigm is named 'pontwise'"),
        (["paradigms.listwise.params.windw=3"], "has no parameter 'windw'"),
        (["stages.synth.mixture.setwize=3"], "no paradigm is named 'setwize'"),
        (["data=jsonl", "data.path=nowhere.jsonl"], "data.path='nowhere.jsonl': there is no such file or folder"),
        (["data.source=jsonl"], "data.source=jsonl needs data.path; give data.path=VALUE"),
        (["data.source=jsnl"], "no source is named 'jsnl'"),
        (
            ["stages.sft.batch_size=10", "stages.sft.micro_batch=4"],
            "a step of batch_size=10 gives each of 1 processes 10 rows, which is not a multiple of micro_batch=4",
        ),
        (
            [
                *("launcher=accelerate", "launcher.num_processes=3", "budget.prompts_per_step=8"),
                *("stages.sft.batch_size=12", "stages.format.batch_size=12"),
            ],
            "does not give each of 3 processes the same number of whole groups of 8",
        ),
        (
            ["launcher=accelerate", "launcher.args=[--num-processes,2]"],
            "launcher.args holds --num-processes, which the launcher sets itself; give launcher.num_processes=VALUE",
        ),
        (
            ["launcher=accelerate", "launcher.strategy=mine.yaml"],
            "launcher.strategy='mine.yaml': there is no such accelerate configuration",
        ),
        (
            ["model.max_prompt_tokens=8190"],
            "stages.sft: model.max_prompt_tokens=8190 + 4 tokens of a completion = 8194, more than the model's context "
            "of 8192; lower model.max_prompt_tokens to 8188 or less",
        ),
    ],
)
def test_what_does_not_exist_is_refused_before_any_work(overrides: list[str], fragment: str, tmp_path: Path):
    (tmp_path / "bare.py").write_text("import dataclasses\n@dataclasses.dataclass\nclass Bare:\n    x: int\n")
    (tmp_path / "odd.py").write_text("class Odd(\n")
    with pytest.raises((ValueError, LookupError, FileNotFoundError, ImportError)) as caught:
        config = compose("run", ["experiment=quickstart_tokens", *(o.format(folder=tmp_path) for o in overrides)])
        assert isinstance(config, Config)
        Experiment.of(config)
    assert fragment in str(caught.value)
