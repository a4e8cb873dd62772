"""Broken runs: each is broken for real, and stops behind its last good checkpoint with a sentence, or warns."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import three_candidates
from transformers import AutoModelForCausalLM

from rl_rerank.cli.main import main
from rl_rerank.config import Config
from rl_rerank.experiment.compose import compose
from rl_rerank.io import manifest
from rl_rerank.io.files import read_jsonl
from rl_rerank.training.loop.watch import UnhealthyError, require_weights

pytestmark = pytest.mark.slow

SHORT = "max_steps: 3, save_steps: 1, learning_rate: 1e-3, warmup_ratio: 0, micro_batch: 4"
EXPERIMENT = f"""\
# @package _global_
paradigm: pointwise
stages:
  rows: {{kind: synth, teacher: labels, mixture: {{pointwise: 12}}}}
  completion: {{kind: sft, data: rows, batch_size: 4, {SHORT}}}
  ranking: {{kind: sft, loss: softmax, batch_size: 2, {SHORT}}}
  form: {{kind: sft, data: rows, batch_size: 8, max_steps: 25, micro_batch: 8, learning_rate: 1e-2}}
  tokens: {{kind: grpo, prompts_per_step: 2, num_generations: 4, {SHORT}}}
  scores: {{kind: grpo, policy: scores, prompts_per_step: 2, num_generations: 4, {SHORT}}}
  choice: {{kind: grpo, policy: choice, prompts_per_step: 4, {SHORT}}}
"""
TRAINERS = ("completion", "ranking", "tokens", "scores", "choice")
POLICIES = ("tokens", "scores", "choice")
REWARDS = """\
class Letters:
    def __call__(self, example, rollout):
        text = rollout.completion.text
        return sum(c.isalpha() for c in text) / (1 + len(text)) + text.startswith(("[1]", "y"))


class Constant:
    def __call__(self, example, rollout):
        return 0.7


class Fails:
    '''As a judge behind a network that is there for `CALLS` calls: later answers all get 0.'''

    calls = 0

    def __call__(self, example, rollout):
        Fails.calls += 1
        return Letters()(example, rollout) if Fails.calls <= CALLS else 0.0


class Malformed:
    def __call__(self, example, rollout):
        return float(not rollout.judgment.is_ok) + len(rollout.completion.token_ids or ()) / 100


class Long:
    def __call__(self, example, rollout):
        return float(len(rollout.completion.token_ids or ()))
"""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    three_candidates.write(folder)
    (folder / "conf/experiment").mkdir(parents=True)
    (folder / "conf/experiment/broken.yaml").write_text(EXPERIMENT)
    (folder / "rewards.py").write_text(REWARDS.replace("CALLS", "16"))
    return folder


@pytest.fixture
def folder(pristine, tmp_path, monkeypatch) -> Path:
    shutil.copytree(pristine, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture(scope="module")
def taught(pristine, tiny_model_dir, tmp_path_factory) -> Path:
    """The tiny model after a few steps on answers: it answers with one word and ends."""
    folder = tmp_path_factory.mktemp("taught") / "work"
    shutil.copytree(pristine, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert stage("rows", tiny_model_dir) == 0
        assert stage("form", tiny_model_dir) == 0
    return folder / "run/form/model"


def overrides(model, *more) -> list[str]:
    return [
        *("experiment=broken", "data=jsonl", "data.path=data.jsonl", "run_dir=run", "report_to=[]"),
        *(f"model.path={model}", "model.max_prompt_tokens=400", "reward=[rewards.py:Letters]", *more),
    ]


def stage(name, model, *more) -> int:
    """Run a stage's command, with settings of its own unless they name another place."""
    own = [one if one.startswith(("paradigms.", "model.", "reward=")) else f"stages.{name}.{one}" for one in more]
    kind = "synth" if name == "rows" else "sft" if name in ("completion", "ranking", "form") else "grpo"
    return main([kind, *overrides(model, f"stage={name}", *own)])


def prepared(name, model) -> None:
    if name == "completion":
        assert stage("rows", model) == 0


def checkpoints(name) -> list[str]:
    return sorted(path.parent.name for path in Path("run", name, "checkpoints").glob("checkpoint-*/manifest.json"))


def is_done(name) -> bool:
    ledger = Path("run/ledger.jsonl")
    return ledger.is_file() and any(row["stage"] == name for row in read_jsonl(ledger))


def warnings(name) -> list[str]:
    file = Path("run", name, "health.json")
    return [row["sentence"] for row in json.loads(file.read_text())] if file.is_file() else []


def with_nan(model: Path, target: Path) -> Path:
    shutil.copytree(model, target)
    weights = load_file(target / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def assert_stopped(capsys, name, *parts, good=None) -> None:
    """The sentence on standard error, no model, and a stage that is not done."""
    shown = capsys.readouterr().err
    assert all(part in shown for part in parts), shown
    kept = f"the last good checkpoint is run/{name}/checkpoints/checkpoint-{good}"
    assert (kept if good else "there is no checkpoint from before") in shown, shown
    assert not Path("run", name, "model").exists() and not is_done(name)
    assert good is None or f"checkpoint-{good}" in checkpoints(name)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_model_with_one_weight_that_is_no_number_is_not_trained(folder, tiny_model_dir, capsys, name):
    prepared(name, tiny_model_dir)
    broken = with_nan(tiny_model_dir, folder / "nan")
    assert stage(name, broken) == 2
    shown = capsys.readouterr().err
    assert f"the starting model {broken} has 1 weight tensor with values that are not finite" in shown
    assert "the first model.layers.0.mlp.up_proj.weight" in shown
    assert checkpoints(name) == [] and not Path("run", name, "model").exists() and not is_done(name)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_learning_rate_that_destroys_the_weights_stops_the_run(folder, tiny_model_dir, capsys, name):
    prepared(name, tiny_model_dir)
    # The rate of step 1 is 0, and what step 2 makes of the weights shows in step 3.
    assert stage(name, tiny_model_dir, "learning_rate=1e30", "max_steps=6", "warmup_ratio=0.5") == 2
    cause = "and the gradient norm nan (likely cause: learning_rate=1e+30 is too high)"
    assert_stopped(capsys, name, "step 3: the loss is ", cause, good=1)
    kept, start = (
        load_file(f"{f}/model.safetensors") for f in (f"run/{name}/checkpoints/checkpoint-1", tiny_model_dir)
    )
    assert all(torch.equal(kept[weight], start[weight]) for weight in start)
    assert [row["step"] for row in read_jsonl(Path("run", name, "metrics.jsonl"))] == [1, 2, 3]


@pytest.mark.parametrize("name", POLICIES)
def test_a_constant_reward_stops_the_run(folder, taught, capsys, name):
    assert stage(name, taught, "reward=[rewards.py:Constant]", "max_steps=6", "health.patience=4") == 2
    cause = "the reward is the same for all completions (constant 0.7)"
    assert_stopped(capsys, name, "every group had one reward for all its answers in the last 4 steps", cause)


@pytest.mark.parametrize("name", POLICIES)
def test_a_reward_that_is_gone_stops_the_run_behind_the_steps_that_had_one(folder, taught, capsys, name):
    reward = "reward=[rewards.py:Fails]"
    assert stage(name, taught, reward, "max_steps=9", "health.patience=3", "trl.save_total_limit=9") == 2
    rows = read_jsonl(Path("run", name, "metrics.jsonl"))
    alive = [row["step"] for row in rows if row["rewards/fails/constant_groups"] < 1]
    assert alive == [1, 2] and len(rows) == 5
    assert_stopped(capsys, name, "step 5: every group had one reward for all its answers in the last 3 steps", good=1)


@pytest.mark.parametrize("name", POLICIES)
def test_a_short_run_without_a_signal_ends_with_a_sentence(folder, tiny_model_dir, caplog, name):
    assert stage(name, tiny_model_dir, "reward=[rewards.py:Constant]") == 0
    found = [line for line in warnings(name) if "every group had one reward for all its answers in the last 3" in line]
    assert len(found) == 1 and found[0] in caplog.messages
    config = compose("run", overrides(tiny_model_dir))
    assert isinstance(config, Config)
    assert f"warning: {found[0]}" in config.stages[name].results(Path("run", name))


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_that_leaves_the_starting_model_is_stopped(folder, taught, capsys, name):
    limits = ("health.patience=2", "health.max_kl=1e-6", "beta=0.001")
    assert stage(name, taught, "max_steps=8", f"learning_rate={'1e-2' if name == 'scores' else '1e-3'}", *limits) == 2
    assert_stopped(capsys, name, "the KL to the starting model is", "learning_rate is too high, or beta too low")


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_without_entropy_is_reported(folder, taught, caplog, name):
    assert stage(name, taught, "health.patience=2", "health.min_entropy=100") == 0
    [found] = [line for line in warnings(name) if "entropy" in line]
    assert f"stages.{name}, step 2: the policy's entropy has been below 100 nats for 2 steps" in found
    assert caplog.messages.count(found) == 1  # and not again at step 3


def test_answers_that_never_end_stop_the_run(folder, tiny_model_dir, capsys):
    assert stage("tokens", tiny_model_dir, "max_steps=6", "health.patience=3") == 2
    what = "no answer was well formed in the last 3 steps, and every one was cut at the limit"
    assert_stopped(capsys, "tokens", what, "no answer ends; check the model's stop tokens, and max_completion_tokens")


def test_a_policy_that_forgets_the_form_is_stopped(folder, taught, capsys):
    settings = ("reward=[rewards.py:Malformed]", "max_steps=40", "learning_rate=1e-2", "health.patience=3")
    assert stage("tokens", taught, *settings, "trl.save_total_limit=40") == 2
    rows = read_jsonl(Path("run/tokens/metrics.jsonl"))
    assert rows[0]["well_formed"] >= 0.5 and [row["well_formed"] for row in rows[-3:]] == [0.0, 0.0, 0.0]
    assert_stopped(capsys, "tokens", "no answer was well formed in the last 3 steps", good=len(rows) - 4)


def test_logits_that_are_no_numbers_are_not_sampled_from(folder, tiny_model_dir, capsys):
    # Nothing is saved at step 2, so that the weights are looked at by nobody before they are used.
    settings = ("learning_rate=1e39", "max_steps=6", "warmup_ratio=0.5", "save_steps=5")
    assert stage("tokens", tiny_model_dir, *settings) == 2
    assert_stopped(capsys, "tokens", "step 3: the model's logits are not finite", "learning_rate=1e+39 is too high")


@pytest.mark.parametrize("name", ["ranking", "choice"])
def test_a_checkpoint_with_a_weight_that_is_no_number_is_not_resumed(folder, tiny_model_dir, capsys, name):
    assert stage(name, tiny_model_dir) == 0
    for left in ("model", "checkpoints/checkpoint-3/model.safetensors"):
        shutil.move(Path("run", name, left), folder / Path(left).name)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = torch.inf
    checkpoint = Path("run", name, "checkpoints/checkpoint-3")
    layout = manifest.read(checkpoint)["layout"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    manifest.write(checkpoint, {"layout": layout})  # as if it had been saved so
    assert stage(name, tiny_model_dir, "max_steps=3") == 2
    shown = capsys.readouterr().err
    assert f"run/{name}/checkpoints/checkpoint-3 cannot be resumed: it has 1 weight tensor with values" in shown
    # Of a grpo stage that had ended, only the model was left to save.
    earlier = f"run/{name}/checkpoints/checkpoint-2" if name == "ranking" else "an earlier checkpoint"
    assert f"remove it, and the same command goes on from {earlier}" in shown
    assert not Path("run", name, "model").exists()
    shutil.rmtree(f"run/{name}/checkpoints/checkpoint-3")
    assert stage(name, tiny_model_dir) == 0 and Path("run", name, "model").is_dir()


def test_a_model_that_overflows_the_type_it_is_saved_in_is_not_saved(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model.model.norm.weight.data[0] = 1e5
    require_weights(model, "run/sft/model")
    with pytest.raises(UnhealthyError, match=r"run/sft/model would have 1 weight tensor .*model\.norm\.weight"):
        require_weights(model.half(), "run/sft/model")


def test_answers_that_end_and_are_in_another_form_are_reported(folder, taught, caplog):
    form = [f"paradigms.pointwise.params.{key}" for key in ("positive=good", "negative=bad")]
    assert stage("tokens", taught, "health.patience=2", *form) == 0
    [found] = warnings("tokens")
    assert "step 2: no answer was well formed in the last 2 steps (likely cause: the model does not know" in found
    assert found in caplog.messages


def test_lengths_that_change_are_reported(folder, taught):
    assert stage("tokens", taught, "health.patience=2", "health.max_length_change=1.0001", "max_steps=4") == 0
    [found] = [line for line in warnings("tokens") if "tokens in the last" in line]
    assert found.startswith("stages.tokens, step 4: answers have")


def test_a_gradient_of_zero_is_reported(folder, tiny_model_dir):
    # Without a margin the loss of a pair is 0 as soon as the better document stands before the other.
    loss = ("loss=hinge", "loss_params.margin=0", "answer_weight=0", "list_size=2")
    assert stage("ranking", tiny_model_dir, *loss, "learning_rate=1e-2", "max_steps=40", "health.patience=2") == 0
    [found] = warnings("ranking")
    assert "the gradient was exactly 0 in the last 2 steps, so nothing is learned" in found


def test_a_run_that_was_stopped_goes_on_where_its_rules_are_switched_off(folder, taught, capsys):
    constant = ("reward=[rewards.py:Constant]", "max_steps=6")
    assert stage("scores", taught, *constant, "health.patience=4") == 2
    assert stage("scores", taught, *constant, "health.patience=5") == 2  # the steps before the resumption count
    assert len(read_jsonl(Path("run/scores/metrics.jsonl"))) == 5
    assert stage("scores", taught, *constant, "health=null") == 0
    assert len(read_jsonl(Path("run/scores/metrics.jsonl"))) == 6 and warnings("scores") == []


def test_the_first_step_says_how_many_answers_end(folder, taught, caplog):
    caplog.set_level("INFO")
    assert stage("tokens", taught) == 0
    [line] = [line for line in caplog.messages if line.startswith("step 1: loss ")]
    row = read_jsonl(Path("run/tokens/metrics.jsonl"))[0]
    assert f"{1 - row['completions/clipped_ratio']:.0%} of answers end, {row['well_formed']:.0%} of answers are" in line


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("patience=0", "patience must be at least 1; got 0"),
        ("max_kl=0", "max_kl must be above 0; got 0"),
        ("max_length_change=1", "max_length_change must be above 1; got 1"),
        ("min_entropy=-1", "min_entropy must be at least 0; got -1"),
    ],
)
def test_limits_that_make_no_sense_are_refused(folder, tiny_model_dir, capsys, limits, message):
    assert stage("tokens", tiny_model_dir, f"health.{limits}") == 2
    assert message in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_ends_with_the_stage_that_stopped(folder, tiny_model_dir, processes):
    Path("conf/experiment/broken.yaml").write_text(
        f"# @package _global_\nstages:\n  tokens: {{kind: grpo, prompts_per_step: 2, num_generations: 4, {SHORT}}}\n"
        "  later: {kind: rerank, model: tokens}\n"
    )
    launcher = ["launcher=accelerate", f"launcher.num_processes={processes}"] if processes > 1 else []
    settings = ["stages.tokens.health.patience=2", "reward=[rewards.py:Constant]", *launcher]
    command = [sys.executable, "-m", "rl_rerank", "run", *overrides(tiny_model_dir, *settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == (2 if processes == 1 else 1), done.stderr[-3000:]
    sentence = "stages.tokens, step 2: every group had one reward for all its answers in the last 2 steps"
    assert done.stderr.count(f"rl-rerank: {sentence}") == processes
    assert sentence in Path("run/tokens/log.txt").read_text()
    assert "stage 'tokens' failed with exit status" in done.stderr
    assert not Path("run/tokens/model").exists() and not Path("run/later").exists() and not is_done("tokens")
    assert checkpoints("tokens") == ["checkpoint-1"]
