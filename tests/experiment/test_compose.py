"""From command lines to configurations: what composes, and the sentences for what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from rl_rerank.config import Config, EvaluateFiles
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import conf_dir

EXPERIMENTS = sorted(
    str(p.relative_to(conf_dir() / "experiment").with_suffix("")) for p in conf_dir().rglob("experiment/**/*.yaml")
)

MINE = '''
from dataclasses import dataclass


@dataclass(frozen=True)
class MyReward:
    """Always x."""

    x: float = 2.0

    def __call__(self, example, rollout):
        return self.x
'''


SMOKE = OmegaConf.load(conf_dir() / "budget/tokens_smoke.yaml")


def quickstart(*overrides: str, config_dir: str | None = None) -> Any:
    config = compose("run", ["experiment=quickstart_tokens", *overrides], config_dir)
    assert isinstance(config, Config)
    return config


def entry_point(folder: Path, name: str, target: str) -> None:
    """What an installed distribution leaves behind that declares one reward."""
    info = folder / f"{name}_rewards-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-rewards\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[rl_rerank.reward]\n{name} = {target}\n")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_names_only_what_exists(name: str, tmp_path: Path):
    # The study's collections have no default folder.
    folder = [f"data.path={tmp_path}"] if name.startswith("study/") else []
    config = compose("run", [f"experiment={name}", *folder])
    assert isinstance(config, Config)
    assert config.experiment == name
    Experiment.of(config)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["data", "model", "engine", "launcher", "budget"])
def test_every_file_of_a_group_composes(group: str):
    for file in (conf_dir() / group).glob("*.yaml"):
        required = OmegaConf.missing_keys(OmegaConf.load(file))
        experiment = "quickstart" if file.stem in ("demo", "smoke") else "quickstart_tokens"
        settings = [f"{group}.{key}=somewhere" for key in required]
        if group == "budget" and file.stem == "study":
            experiment, settings = "study/pointwise", ["data=pydocs"]
        compose("run", [f"experiment={experiment}", f"{group}={file.stem}", *settings])


@pytest.mark.parametrize(
    ("overrides", "place", "value"),
    [
        (["run_dir=/tmp/a folder"], "run_dir", "/tmp/a folder"),
        (["data.first_stage={kind: hybrid, weight: 0.7}"], "data.first_stage.weight", 0.7),
        (["data.first_stage=hybrid", "data.first_stage.weight=0.7"], "data.first_stage.weight", 0.7),
        (["data.first_stage.encoder=a", "data.first_stage.kind=dense"], "data.first_stage.encoder", "a"),
        (["engine=bi_encoder"], "engine.args", {"model": "minilm"}),
        (["stages.sft.max_steps=7"], "stages.sft.max_steps", 7),
        (["stages.sft.learning_rate=2e-5"], "stages.sft.learning_rate", 2e-5),
        (["stages.sft.trl.max_grad_norm=0.1"], "stages.sft.trl", {"max_grad_norm": 0.1}),
        (["stages.grpo.trl={top_k: 5}"], "stages.grpo.trl", {"top_k": 5}),
        (["stages.sft.lora.r=4"], "stages.sft.lora.r", 4),
        (["++stages.sft.max_steps=7"], "stages.sft.max_steps", 7),
        (["engine=vllm", "engine.args.max_model_len=512"], "engine.args", {"max_model_len": 512}),
        (["data=beir", "data.path=x", "data.params.k1=0.9"], "data.params", {"k1": 0.9}),
        (["paradigms.listwise.params.window=3"], "paradigms.listwise.params", {"window": 3}),
        (["launcher=accelerate", "launcher.args=[--max_restarts,2]"], "launcher.args", ["--max_restarts", "2"]),
        (["launcher=accelerate", "launcher.strategy=zero3", "launcher.strategy=zero2"], "launcher.strategy", "zero2"),
        (["launcher=accelerate", "launcher=local"], "launcher.kind", "local"),
        (
            ["budget=tokens_smoke"],
            "stages.sft.max_steps",
            SMOKE["sft_steps"],
        ),
        (["budget=tokens_smoke", "budget.sft_steps=5"], "stages.sft.max_steps", 5),
        (["seed=9"], "stages.grpo.seed", 9),
        (["seed=9", "stages.grpo.seed=3"], "stages.grpo.seed", 3),
        (["seed=9"], "data.seed", 1),
        (["reward=[ndcg,format]", "rewards.ndcg.weight=0.5"], "rewards.ndcg.weight", 0.5),
        (["reward=ndcg", "rewards.ndcg.params.k=5"], "rewards.ndcg.params.k", 5),
        (["reward=ndcg"], "rewards.ndcg.params.k", 10),
        (["reward=ndcg", "rewards.ndcg.failed=-1"], "rewards.ndcg.failed", -1.0),
        (["reward=ndcg", "rewards.ndcg.workers=2", "rewards.ndcg.timeout=30"], "rewards.ndcg.timeout", 30.0),
        (["reward=llm_judge", "rewards.llm_judge.params.engine.model=m"], "rewards.llm_judge.params.engine.model", "m"),
        (["stages.evaluate.measures=[AP(rel=2), nDCG@10]"], "stages.evaluate.measures", ["AP(rel=2)", "nDCG@10"]),
        (['stages.evaluate.measures=["AP(rel=2)"]'], "stages.evaluate.measures", ["AP(rel=2)"]),
        (["~stages.synth.mixture.listwise"], "stages.synth.mixture", {"pointwise": 400, "groupwise": 40}),
    ],
)
def test_an_override_reaches_its_setting(overrides: list[str], place: str, value: object):
    found: Any = quickstart("budget.pointwise_rows=400", "budget.groupwise_rows=40", *overrides)
    for key in place.split("."):
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    assert found == value


@pytest.mark.parametrize(
    ("overrides", "error", "fragment"),
    [
        (["stages.sft.lr=1"], ValueError, "there is no setting 'stages.sft.lr'."),
        (["stages.sft.learning_rat=1"], ValueError, "Did you mean 'learning_rate'?"),
        (["modle.path=x"], ValueError, "there is no setting 'modle'. Did you mean 'model'?"),
        (["budgt=smoke"], ValueError, "Did you mean 'budget'?"),
        (["budget.sft_step=5"], ValueError, "there is no setting 'budget.sft_step'. Did you mean 'sft_steps'?"),
        (["stages.sft.max_steps=many"], ValueError, "stages.sft.max_steps must be of type int; got 'many'"),
        (["stages.grpo.micro_batch=3"], ValueError, "micro_batch=3 is not a multiple of num_generations="),
        (
            ["stages.grpo.micro_batch=null", "+stages.grpo.trl.entropy_coef=0.01"],
            ValueError,
            "trl.entropy_coef=0.01 is a mean over a micro-batch",
        ),
        (["stages.new.kind=sfft"], ValueError, "stages.new.kind must be one of average, check, cross_encoder,"),
        (
            ["data=pydoc"],
            LookupError,
            "no data is named 'pydoc'; there are: baidu_ultr, beir, carousels, collection, digits, hf,",
        ),
        (["budget=huge"], LookupError, "no budget is named 'huge'; there are: demo, smoke"),
        (["data=beir"], ValueError, "data.path is required; give data.path=VALUE"),
        (["reward=[ndgc]"], LookupError, "Did you mean 'ndcg'?"),
        (["reward=[ndcg,ndcg]"], ValueError, "reward=[ndcg,ndcg]: 'ndcg' is named twice"),
        (["reward=[a.py:Mine,b.py:Mine]"], ValueError, "'mine' is named twice"),
        (["reward=[mine.py:NDCG]"], ValueError, "'ndcg', which is an installed reward's"),
        (["reward=[nowhere.py:Mine]"], LookupError, "there is no file"),
        (
            ["reward=ndcg", "rewards.ndcg.timeout=30"],
            ValueError,
            "timeout=30.0 needs workers, because a call can only be",
        ),
        (["reward=ndcg", "rewards.ndcg.workers=-1"], ValueError, "workers must be 0 or more; got -1"),
        (["reward=ndcg", "rewards.ndcg.failed=nan"], ValueError, "failed must be a finite number, or null; got nan"),
        (["rewards.ndcg.weight=2"], ValueError, "'ndcg' is not chosen; add it: 'reward=[...,ndcg]'"),
        (["data.depth=1,2"], ValueError, "write a list in brackets: 'data.depth=[a,b]'"),
        (["data.depth=[1"], ValueError, "cannot read 'data.depth=[1' as KEY=VALUE"),
        (["--run_dir", "a"], ValueError, "settings have no dashes, so write run_dir=VALUE"),
        (["--run_dir=a"], ValueError, "settings have no dashes, so write run_dir=a"),
        (["stages.stf.max_steps=5"], ValueError, "there is no stage 'stf'; there are: first_stage, synth"),
        (["stages.stf.max_steps=5"], ValueError, "Did you mean 'sft'?"),
        (["quickstart"], ValueError, "cannot read 'quickstart' as KEY=VALUE"),
        (["run_dir=${oc.env:HOME}"], ValueError, "run_dir reads the environment"),
        (["run_dir=${nowhere}"], ValueError, "nowhere"),
        (["stages.sft=3"], ValueError, "stages.sft"),
        (["rewards=[ndcg]"], ValueError, "Error merging override ++rewards=[ndcg]"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(overrides: list[str], error: type[Exception], fragment: str):
    with pytest.raises(error) as caught:
        quickstart(*overrides)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_experiment_lists_those_there_are():
    with pytest.raises(
        LookupError, match=r"no experiment is named 'quickstrt'; there are: .*Did you mean 'quickstart'"
    ):
        compose("run", ["experiment=quickstrt"])


@pytest.mark.parametrize(
    "override", ["reward=[exact_match,{file}:MyReward]", "rewards.my_reward.target={file}:MyReward"]
)
def test_a_reward_is_taken_from_a_file(tmp_path: Path, override: str):
    file = tmp_path / "some rewards.py"
    file.write_text(MINE)
    config = quickstart(override.format(file=file), "rewards.my_reward.weight=0.5")
    assert sorted(config.rewards) == ["exact_match", "my_reward"]
    mine = config.rewards["my_reward"]
    assert (mine.weight, mine.target, mine.params) == (0.5, f"{file}:MyReward", {"x": 2.0})


def test_an_installed_reward_is_chosen_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_installed_rewards.py").write_text(MINE)
    entry_point(tmp_path, "steady", "my_installed_rewards:MyReward")
    monkeypatch.syspath_prepend(tmp_path)
    config = quickstart("reward=[ndcg,steady]", "rewards.steady.params.x=3")
    assert config.rewards["steady"].params == {"x": 3}
    assert config.rewards["steady"].target is None


def test_a_plugin_that_does_not_import_matters_only_where_it_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entry_point(tmp_path, "broken", "no_such_module:Reward")
    monkeypatch.syspath_prepend(tmp_path)
    quickstart("reward=[ndcg]")
    with pytest.raises(ImportError, match="reward 'broken' is declared as 'no_such_module:Reward'"):
        quickstart("reward=[ndcg,broken]")


def test_a_users_folders_are_searched_before_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder, steps in (("conf", 11), ("extra", 22)):
        (tmp_path / folder / "budget").mkdir(parents=True)
        ours = OmegaConf.load(conf_dir() / "budget/tokens_smoke.yaml")
        text = OmegaConf.to_yaml(OmegaConf.merge(ours, {"sft_steps": steps}))
        (tmp_path / folder / "budget/tokens_smoke.yaml").write_text(f"# @package budget\n{text}")
    monkeypatch.chdir(tmp_path)
    assert quickstart("budget=tokens_smoke").stages["sft"].max_steps == 11
    assert quickstart("budget=tokens_smoke", config_dir="extra").stages["sft"].max_steps == 22


def test_another_projects_primary_configuration_does_not_take_the_place_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.yaml").write_text("defaults: [trainer: gpu]\n")
    monkeypatch.chdir(tmp_path)
    assert quickstart().data.source == "pydocs"


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/odd.yaml").write_text("stages: [\n")
    with pytest.raises(ValueError, match=r"not YAML.*odd\.yaml"):
        compose("run", ["experiment=odd"], str(tmp_path))


def test_an_experiment_can_extend_another(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults: [quickstart_tokens, _self_]\nstages: {sft: {max_steps: 3}}\n"
    (tmp_path / "experiment/longer.yaml").write_text(text)
    config = compose("run", ["experiment=longer", "budget=tokens_smoke"], str(tmp_path))
    assert isinstance(config, Config)
    assert config.run_dir == "runs/longer-tokens_smoke"
    assert getattr(config.stages["sft"], "max_steps") == 3  # noqa: B009
    assert list(config.stages) == list(quickstart().stages)


def test_evaluating_a_file_takes_names_and_measures_as_they_are():
    found = compose("evaluate", ["run=a=b (1).trec", "qrels=q,1.txt", "measures=[AP(rel=2),P(rel=2)@5, 'nDCG@10']"])
    assert found == EvaluateFiles(run="a=b (1).trec", qrels="q,1.txt", measures=["AP(rel=2)", "P(rel=2)@5", "nDCG@10"])


@pytest.mark.parametrize(
    ("overrides", "fragment"),
    [
        (["run=a"], "qrels is required; give qrels=VALUE"),
        (["run=a", "qrel=b"], "there is no setting 'qrel'. Did you mean 'qrels'?"),
        (["run=a", "qrels"], "cannot read 'qrels'"),
    ],
)
def test_evaluating_a_file_refuses_what_it_does_not_know(overrides: list[str], fragment: str):
    with pytest.raises(ValueError) as caught:
        compose("evaluate", overrides)
    assert fragment in str(caught.value)


@pytest.mark.parametrize("data", ["reviews", "collection data.path=folder"])
def test_screening_ranks_whole_lists_at_every_scale_of_every_collection(data):
    small = compose("run", ["experiment=screening", "scale=cpu", *f"data={data}".split()])
    assert isinstance(small, Config)
    assert (small.data.depth, small.data.folds) == (60, 3)
    assert small.data.params == ({"documents": 60} if data == "reviews" else {})
    large = compose("run", ["experiment=screening", *f"data={data}".split()])
    assert isinstance(large, Config)
    assert large.data.depth == 2000


@pytest.mark.parametrize(
    "value",
    [
        *(
            "größe",
            "データ/集.jsonl",
            "it's",
            'a "b" c',
            "a#b",
            "a&b",
            "(1)",
            "f(x)",
            "lr=1e-4,seed=2",
            "my data, v2.jsonl",
        ),
        *("1e-4", "true", "a\\", '\\"', "a: b", "[x]", "{x}", "%20", "~user~", "a$b"),
    ],
)
def test_paths_are_taken_as_they_are(value: str):
    config = compose("run", [f"run_dir={value}", "model.path=x", f"journal={value}"])
    assert isinstance(config, Config)
    assert (config.run_dir, config.journal) == (value, value)


def test_quotes_interpolations_and_the_home_folder_are_read():
    config = compose("run", ["run_dir='a=b, c'", "journal=${run_dir}/x", "data.path=~/data"])
    assert isinstance(config, Config)
    assert (config.run_dir, config.journal) == ("a=b, c", "a=b, c/x")
    assert config.data.path == str(Path.home() / "data")
