"""Averages of models' weights: golden values, files in shards, adapters, what later stages do with one, refusals."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support import three_candidates
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl_rerank.config import build
from rl_rerank.engines.local import checkpoint
from rl_rerank.engines.local.weight_average import INDEX, average
from rl_rerank.experiment import run_state
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.stages.average import run as average_stage
from rl_rerank.stages.average.spec import AverageStage
from rl_rerank.stages.sft import run as sft_stage
from rl_rerank.stages.sft.spec import SFTStage

EXPERIMENT = """\
# @package _global_
paradigm: pointwise
stages:
  one: {kind: sft, loss: softmax, answer_weight: 0, batch_size: 4, max_steps: 2, learning_rate: 1e-2, seed: 1}
  two: {kind: sft, loss: softmax, answer_weight: 0, batch_size: 4, max_steps: 2, learning_rate: 1e-2, seed: 2,
        lora: {r: 4}, save_steps: 1}
  soup: {kind: average, models: [one, two@1, two], weights: [2, 1, 1]}
  more: {kind: sft, model: soup, loss: softmax, answer_weight: 0, batch_size: 4, max_steps: 1, learning_rate: 1e-2}
  ranked: {kind: rerank, model: soup, split: dev}
  exported: {kind: export, model: soup}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    three_candidates.write(tmp_path)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/soup.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def composed(model_dir, *overrides):
    return compose(
        "run",
        [
            *("experiment=soup", "data=jsonl", "data.path=data.jsonl", "run_dir=run", "report_to=[]"),
            *(f"model.path={model_dir}", "model.max_prompt_tokens=400", *overrides),
        ],
    )


def write(folder: Path, tensors: dict[str, torch.Tensor], **settings) -> Path:
    """A folder with weights and a configuration."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **settings}))
    return folder


def test_the_mean_is_in_float32_and_rounded_once(tmp_path):
    # bfloat16 has 8 bits: 1 + 1/128 is its next number after 1. Sums in it would lose the thirds of 1/128.
    near = [1.0, 1.0, 1.0 + 1 / 128]
    folders = {
        str(n): write(tmp_path / str(n), {"w": torch.tensor([x, -8.0 * n], dtype=torch.bfloat16), "n": torch.tensor(3)})
        for n, x in enumerate(near)
    }
    out = tmp_path / "out"
    out.mkdir()
    average("stages.soup.models", folders, [0.5, 0.25, 0.25], out, "float32")
    found = load_file(out / "model.safetensors")
    # (1 / 2 + 1 / 4 + 1 / 4 + 1 / 512; -8 (1 / 4 + 2 / 4))
    assert found["w"].dtype == torch.float32 and found["w"].tolist() == [1 + 1 / 512, -6.0]
    assert found["n"].item() == 3


def test_files_are_divided_as_the_first_models_are_and_the_others_may_be_whole(tmp_path):
    whole = write(tmp_path / "whole", {"a": torch.ones(2), "b": torch.zeros(3)})
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for name, value in (("a", torch.zeros(2)), ("b", torch.ones(3))):
        save_file({name: value}, parts / f"{name}.safetensors")
    places = {"a": "a.safetensors", "b": "b.safetensors"}
    (parts / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    out = tmp_path / "out"
    out.mkdir()
    average("x", {"parts": parts, "whole": whole}, [0.5, 0.5], out, "float32")
    assert sorted(path.name for path in out.iterdir()) == ["a.safetensors", "b.safetensors", INDEX]
    assert json.loads((out / INDEX).read_text())["weight_map"] == places
    assert torch.equal(load_file(out / "b.safetensors")["b"], torch.full((3,), 0.5))


@pytest.mark.parametrize(
    ("tensors", "settings", "message"),
    [
        ({"w": torch.ones(3)}, {}, r"x: w has the shape 2 in one and 3 in other, so the models cannot be averaged"),
        ({"v": torch.ones(2)}, {}, r"x: other has the tensor v and one has not \(2 such tensors\)"),
        ({"w": torch.ones(2)}, {"hidden_size": 8}, "config.json of one has hidden_size=null and that of other 8; only"),
        ({"w": torch.full((2,), torch.nan)}, {}, "the average of w has values that are not finite in torch.float32"),
    ],
)
def test_models_that_do_not_fit_together_are_refused(tmp_path, tensors, settings, message):
    folders = {
        "one": write(tmp_path / "one", {"w": torch.ones(2)}),
        "other": write(tmp_path / "o", tensors, **settings),
    }
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=message):
        average("x", folders, [0.5, 0.5], tmp_path / "out", "float32")


@pytest.mark.slow
def test_a_soup_of_stages_checkpoints_and_merged_adapters_is_a_model_to_go_on_from(folder, tiny_model_dir):
    config = composed(tiny_model_dir)
    for name in ("one", "two"):
        stage = config.stages[name]
        assert isinstance(stage, SFTStage)
        sft_stage.run(config, name, stage)
    soup = config.stages["soup"]
    assert isinstance(soup, AverageStage)
    average_stage.run(config, "soup", soup)
    made = checkpoint.load_model("run/soup/model", "float32").state_dict()
    one, early, two = (
        checkpoint.load_model(checkpoint.locate(config, ref), "float32").state_dict() for ref in ("one", "two@1", "two")
    )
    for name, weight in made.items():
        assert torch.allclose(weight, one[name] / 2 + early[name] / 4 + two[name] / 4, atol=1e-7), name
    apart = max((one[name] - two[name]).abs().max() for name in made)
    assert apart > 1e-3 and any(not torch.equal(early[name], two[name]) for name in made)
    # As every stage leaves it: end tokens, tokenizer, no sampling defaults.
    left, plain = Path("run/soup/model"), Path("run/one/model")
    assert {path.name for path in left.iterdir()} == {path.name for path in plain.iterdir()}
    for file in ("generation_config.json", "config.json"):
        assert json.loads((left / file).read_text()) == json.loads((plain / file).read_text()), file
    more = config.stages["more"]
    assert isinstance(more, SFTStage)
    sft_stage.run(config, "more", more)
    assert (folder / "run/more/model/model.safetensors").is_file()


@pytest.mark.slow
def test_the_average_of_equal_models_is_that_model(folder, tiny_model_dir):
    copy = folder / "copies/tiny"
    shutil.copytree(tiny_model_dir, copy)
    config = composed(tiny_model_dir)
    average_stage.run(config, "soup", AverageStage(kind="average", models=["model", "./copies/tiny"]))
    expected, found = (load_file(Path(at) / "model.safetensors") for at in (tiny_model_dir, "run/soup/model"))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.slow
def test_another_vocabulary_and_an_adapter_are_refused_and_nothing_is_left(folder, tiny_model_dir):
    config = composed(tiny_model_dir)
    other, adapter = folder / "others/one", folder / "others/adapter"
    shutil.copytree(tiny_model_dir, other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    names = sorted(tokenizer.get_vocab())
    file = json.loads((other / "tokenizer.json").read_text())
    vocabulary = file["model"]["vocab"]
    plain = [name for name in names if name in vocabulary][:2]
    vocabulary[plain[0]], vocabulary[plain[1]] = vocabulary[plain[1]], vocabulary[plain[0]]
    (other / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(
        ValueError, match=r"stages\.soup\.models: \./others/one has another vocabulary .* 2 tokens differ"
    ):
        average_stage.run(config, "soup", AverageStage(kind="average", models=["model", "./others/one"]))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(r=4))
    model.save_pretrained(adapter)
    with pytest.raises(FileNotFoundError, match="holds an adapter and not a whole model: merge it"):
        average_stage.run(config, "soup", AverageStage(kind="average", models=["model", "./others/adapter"]))
    assert not (folder / "run/soup").exists() or not list((folder / "run/soup").iterdir())


@pytest.mark.slow
def test_the_plan_knows_the_stage_and_its_record_the_type_of_its_weights(folder, tiny_model_dir):
    experiment = Experiment.of(composed(tiny_model_dir))
    assert experiment.stages["soup"].inputs == ("one", "two") and experiment.stages["more"].inputs == ("soup",)
    assert experiment.describe(["soup"]) == ["soup  average of weights: 0.5 one, 0.25 two@1, 0.25 two"]
    assert run_state.record(experiment, "soup")["model"]["dtype"] == "float32"
    for models, message in (
        ("[one,nine]", r"stages\.soup\.models names 'nine', which is no stage; it can be: model, a folder, one, two"),
        (
            "[one,ranked]",
            r"stages\.soup\.models names 'ranked', of kind rerank; it must be a stage that leaves a model",
        ),
        ("[one,./nowhere]", r"stages\.soup\.models names '\./nowhere', and there is no such folder"),
    ):
        changed = composed(tiny_model_dir, f"stages.soup.models={models}", "stages.soup.weights=null")
        with pytest.raises((LookupError, ValueError, FileNotFoundError), match=message):
            Experiment.of(changed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ["one"]}, r"models must name at least two models; got \['one'\]"),
        ({"models": ["one", "one"]}, "models names one twice; give it a larger weight instead"),
        ({"models": ["one", "two"], "weights": [1.0]}, "weights must be as many as models, 2; got 1"),
        ({"models": ["one", "two"], "weights": [1.0, -1.0]}, "finite numbers of at least 0; got -1"),
        ({"models": ["one", "two"], "weights": [0.0, 0.0]}, "at least one weight must be above 0; all are 0"),
    ],
)
def test_settings_that_make_no_average_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(AverageStage, {"kind": "average", **settings})
