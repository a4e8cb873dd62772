"""An experiment is resolved once: each plugin is built once; what is missing or misspelt is refused before any work."""

from collections import Counter

import pytest

from rl_rerank import registry, requirements
from rl_rerank.config import Config, DataConfig, PluginConfig
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.stages.synth.spec import SynthStage


def composed(*overrides):
    config = compose("run", overrides)
    assert isinstance(config, Config)
    return config


@pytest.mark.parametrize("experiment", ["quickstart", "erank", "reasonrank"])
def test_every_plugin_is_built_once(monkeypatch, experiment):
    built, inner = Counter(), registry.build

    def counting(kind, name, params, **more):
        built[kind, name, repr(sorted(params.items()))] += 1
        return inner(kind, name, params, **more)

    config = composed(f"experiment={experiment}", "model.path=nowhere")
    monkeypatch.setattr(registry, "build", counting)
    resolved = Experiment.of(config)
    assert {kind for kind, *_ in built} >= {"paradigm", "reward", "source"}
    # Members of a pipeline and terms of a composition are built by the plugin that has them.
    assert {what: count for what, count in built.items() if count > 1} == {}
    resolved.describe(list(resolved.stages))
    assert {what: count for what, count in built.items() if count > 1} == {}


def test_a_resolved_stage_knows_what_it_reads_asks_and_needs():
    resolved = Experiment.of(composed("experiment=quickstart_tokens"))
    grpo = resolved.stages["grpo"]
    assert (grpo.inputs, list(grpo.paradigms), grpo.engine) == (("format",), ["pointwise"], None)
    assert grpo.requires == ("torch", "transformers", "trl")
    assert resolved.stages["export"].engine is resolved.config.engine
    assert [term.name for term in resolved.terms] == list(resolved.config.rewards)


def synthesis(tmp_path, steps, **settings):
    (tmp_path / "data.jsonl").touch()
    data = DataConfig(source="jsonl", path=str(tmp_path / "data.jsonl"))
    stage = SynthStage(kind="synth", steps={name: PluginConfig(**step) for name, step in steps.items()}, **settings)
    return Config(data=data, stages={"synth": stage})


@pytest.mark.parametrize(
    ("steps", "settings", "package", "install"),
    [
        ({"calibrate": {"params": {"path": "log.jsonl"}}}, {}, "sklearn", r"rl-rerank\[clicks\]"),
        ({"dense": {"params": {"model": "m"}}}, {}, "transformers", r"rl-rerank\[train\]"),
        ({}, {"outputs": ["parquet"]}, "pyarrow", r"rl-rerank\[train\]"),
        ({}, {"executor": "ray"}, "ray", r"rl-rerank\[ray\]"),
    ],
)
def test_a_missing_extra_of_a_step_or_an_output_is_named_before_any_work(
    tmp_path, monkeypatch, steps, settings, package, install
):
    resolved = Experiment.of(synthesis(tmp_path, steps, **settings))
    monkeypatch.setattr(requirements, "is_installed", lambda name: name != package)
    with pytest.raises(ImportError, match=rf"stage 'synth' needs {package}, which is not installed: .*{install}"):
        resolved.check_installed(["synth"])
    monkeypatch.undo()
    resolved.check_installed([])


def test_a_missing_extra_of_a_source_a_reward_and_a_paradigm_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(requirements, "is_installed", lambda name: name in ("torch", "transformers", "trl"))
    config = composed("experiment=quickstart_tokens", "data=ir_datasets", "data.params.test=a/b")
    with pytest.raises(ImportError, match=r"stage 'first_stage' needs ir_datasets, .*rl-rerank\[ir-datasets\]"):
        Experiment.of(config).check_installed(["first_stage"])
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    requires = ('faiss',)\n    def __call__(self, example, rollout):\n        return 1.0\n"
    )
    config = composed("experiment=quickstart_tokens", f"reward=[{tmp_path / 'mine.py'}:Mine]")
    with pytest.raises(ImportError, match="stage 'grpo' needs faiss, which is not installed: pip install faiss"):
        Experiment.of(config).check_installed(["grpo"])


REWARD = """\
class Mine:
    {attribute} = ("pointwise",)
    def __call__(self, example, rollout):
        return 1.0
    def {method}(self, example, rollouts):
        return []
"""
STEP = """\
from dataclasses import dataclass
@dataclass(frozen=True)
class Mine:
    {attribute}: str = "labels"
    def __call__(self, examples, context):
        yield from examples
"""
PARADIGM = """\
from dataclasses import dataclass
from rl_rerank.paradigms.pointwise import Pointwise
@dataclass(frozen=True)
class Mine(Pointwise):
    {attribute} = True
"""


@pytest.mark.parametrize(
    ("attribute", "method", "meant"),
    [("paradigm", "explain_group", "paradigms"), ("paradigms", "explain_groups", "explain_group"),
     ("require", "explain_group", "requires")],
)  # fmt: skip
def test_a_misspelt_optional_member_of_a_reward_is_refused(tmp_path, attribute, method, meant):
    (tmp_path / "mine.py").write_text(REWARD.format(attribute=attribute, method=method))
    config = composed("experiment=quickstart_tokens", f"reward=[{tmp_path / 'mine.py'}:Mine]")
    with pytest.raises(
        ValueError, match=rf"the reward 'mine' \(Mine\) has .*, which nothing reads; did you mean '{meant}'"
    ):
        Experiment.of(config)


def test_a_misspelt_optional_member_of_a_step_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(STEP.format(attribute="engin"))
    config = synthesis(tmp_path, {"mine": {"target": f"{tmp_path / 'mine.py'}:Mine"}})
    with pytest.raises(ValueError, match=r"the step 'mine' .* has 'engin', which nothing reads; did you mean 'engine'"):
        Experiment.of(config)


def test_a_misspelt_optional_member_of_a_paradigm_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(PARADIGM.format(attribute="needs_logprob"))
    target = f"paradigms.mine.target={tmp_path / 'mine.py'}:Mine"
    config = composed("experiment=quickstart_tokens", target, "paradigm=mine")
    with pytest.raises(
        ValueError, match=r"the paradigm 'mine' .* has 'needs_logprob', .* did you mean 'needs_logprobs'"
    ):
        Experiment.of(config)


def test_a_paradigm_whose_prompts_contradict_its_reasoning_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(PARADIGM.format(attribute="reasoning"))
    target = f"paradigms.mine.target={tmp_path / 'mine.py'}:Mine"
    with pytest.raises(
        ValueError, match=r"the paradigm 'mine' \(Mine\) has reasoning=True and makes prompts with reasoning=False"
    ):
        Experiment.of(composed("experiment=quickstart_tokens", target, "paradigm=mine"))


def test_no_plugin_of_ours_is_taken_for_misspelt(tmp_path):
    """Every installed reward, paradigm and step that can be built without parameters."""
    from rl_rerank.paradigms.build import make
    from rl_rerank.reward.base import Recipe
    from rl_rerank.synthesis.step import build_step

    builders = {"reward": lambda n: Recipe(n).build(), "paradigm": lambda n: make(n, {}),
                "step": lambda n: build_step(n, PluginConfig())}  # fmt: skip
    built = Counter()
    for kind, build in builders.items():
        for name in registry.names(kind):
            try:
                build(name)
            except ValueError as e:
                assert "which nothing reads" not in str(e)
            built[kind] += 1
    assert built["reward"] >= 30 and built["paradigm"] >= 8 and built["step"] >= 25


LOSS = """\
from dataclasses import dataclass
from rl_rerank.training.losses.base import RankingLoss
@dataclass(frozen=True)
class Mine(RankingLoss):
    margin: float = 1.0
    def per_list(self, scores, grades, mask, items, between):
        return (scores * 0).sum(1)
"""


def test_a_ranking_loss_of_ones_own_is_checked_and_refused_like_ours(tmp_path):
    (tmp_path / "mine.py").write_text(LOSS)
    own = f"stages.sft.loss='{tmp_path / 'mine.py'}:Mine'"
    resolved = Experiment.of(composed("experiment=quickstart_tokens", own, "stages.sft.loss_params={margin: 2.0}"))
    assert "lists" in resolved.describe(["sft"])[0]
    with pytest.raises(ValueError, match=r"stages\.sft\.loss_params: margin must be a number of at least 0; got -1"):
        Experiment.of(composed("experiment=quickstart_tokens", own, "stages.sft.loss_params={margin: -1}"))
    with pytest.raises(LookupError, match=r"stages\.sft\.loss: no loss is named 'softmx'.*Did you mean 'softmax'"):
        Experiment.of(composed("experiment=quickstart_tokens", "stages.sft.loss=softmx"))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ("{separator: -1}", "separator must be a number of at least 0; got -1"),
        ("{separator: nan}", "separator must be a number of at least 0; got nan"),
        ("{normalise: batch}", "normalise must be tokens or weights; got 'batch'"),
        ("{seperator: 1}", "seperator"),
    ],
)
def test_wrong_parameters_of_the_loss_on_orders_are_refused(params, says):
    settings = ("experiment=quickstart_tokens", "stages.sft.loss=fullrank", f"stages.sft.loss_params={params}")
    with pytest.raises((ValueError, LookupError), match=rf"stages\.sft\.loss_params\.{says}"):
        Experiment.of(composed(*settings))


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (25, r"stages\.sft_eval\.model names 'sft' at step 25, and it saves every 20 steps"),
        (100, r"stages\.sft_eval\.model names 'sft' at step 100, and it ends at step 80"),
    ],
)
def test_a_checkpoint_that_is_not_saved_is_refused(step, says):
    settings = ("experiment=quickstart", "stages.sft.save_steps=20", "stages.sft.max_steps=80")
    with pytest.raises(ValueError, match=says):
        Experiment.of(composed(*settings, f"stages.sft_eval.model=sft@{step}"))
    config = composed(*settings, "stages.sft_eval.model=sft@40", "stages.rl.model=sft@80")
    assert Experiment.of(config).config.checkpoints_read("sft") == {40, 80}
    with pytest.raises(ValueError, match="a stage of kind cross_encoder has no checkpoints"):
        Experiment.of(composed("experiment=multistage", "stages.mono_eval.model=mono@3"))
