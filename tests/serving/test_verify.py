"""Drifts that are planted into an exported folder are found, and named where they begin."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support import small_tokenizers as small
from support.exported import export, with_tokenizer

from rl_rerank.cli.main import main
from rl_rerank.engines.local.adapters import merge, merged_weights
from rl_rerank.engines.local.checkpoint import load_model, load_tokenizer
from rl_rerank.paradigms.build import make
from rl_rerank.serving import contract, verify
from rl_rerank.serving.comparison import difference
from rl_rerank.serving.contract import GoldenPrompt, GoldenScores

pytestmark = pytest.mark.slow
pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def exported(tiny_model_dir, tmp_path_factory):
    return export(tiny_model_dir, tmp_path_factory.mktemp("exported") / "model", make("pointwise", {}))


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "model")


def changed(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def problems(folder, target) -> str:
    [verdict] = verify.verify(folder, [target])
    return " | ".join(verdict.problems)


def test_an_exported_folder_ranks_the_same_by_each_door(exported, capsys):
    assert main(["verify", f"model={exported}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["hf", "cross_encoder"]
    assert all("5 golden scores are within" in line and "in the same order" in line for line in lines)


def test_a_changed_template_is_found_by_each_door(folder, capsys):
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("Query: ", "Question: "))
    assert problems(folder, "hf") == ""  # which has the words from the contract
    assert "prompt 0: the template's text differs from character" in problems(folder, "cross_encoder")
    assert "\\nQuestion: how to sort" in problems(folder, "cross_encoder")
    template.write_text(template.read_text().replace("<|im_end|>\n", "<|im_end|> "))
    assert main(["verify", f"model={folder}", "targets=[hf,cross_encoder]"]) == 1
    said = capsys.readouterr().out
    assert "hf: golden query 'how to sort an array in place', prompt 0: the template's text differs" in said
    assert "cross_encoder: golden query" in said


def test_a_stale_tokenizer_is_found_by_each_door(folder):
    """Two pieces have changed ids: every text is the same, and its ids are not."""
    path = folder / "tokenizer.json"
    tokens = json.loads(path.read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["Query"], vocabulary["Rank"] = vocabulary["Rank"], vocabulary["Query"]
    path.write_text(json.dumps(tokens))
    for target in ("hf", "cross_encoder"):
        assert "the text is the same, and token ids differ from place" in problems(folder, target)


def test_another_answer_token_is_found(folder):
    terms = contract.read(folder)
    [positive], [negative] = terms.continuation_ids.values()
    changed(folder / "1_LogitScore/config.json", true_token_id=negative, false_token_id=positive)
    said = problems(folder, "cross_encoder")
    assert "the score is" in said and "the order is another" in said
    assert (
        f"the difference of the tokens {(negative, positive)}, and the contract's answers are {(positive, negative)}"
        in said
    )


def test_padding_on_the_right_is_found(folder):
    changed(
        folder / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 256, "padding_side": "right"}}
    )
    assert "ends in a padding token" in problems(folder, "cross_encoder")


def test_a_suffix_that_is_cut_is_found(folder):
    settings = {"text": {"max_length": 256}, "chat_template": {"restore_suffix": False}}
    changed(folder / "sentence_bert_config.json", processing_kwargs=settings)
    assert "a long prompt is cut at its end: it must end with 'Answer yes or no." in problems(folder, "cross_encoder")


def test_a_larger_budget_is_found(folder):
    changed(folder / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 512}})
    assert "a long prompt has 512 tokens, more than the contract's 256" in problems(folder, "cross_encoder")


def test_a_sigmoid_is_found(folder):
    changed(folder / "config_sentence_transformers.json", activation_fn="torch.nn.modules.activation.Sigmoid")
    said = problems(folder, "cross_encoder")
    assert "(it is the sigmoid of that); the order is the same" in said
    assert "the activation is Sigmoid" in said


def test_a_template_that_writes_the_date_is_found(tiny_model_dir, tmp_path):
    source = with_tokenizer(tiny_model_dir, tmp_path / "llama32", small.llama32())
    folder = export(source, tmp_path / "model", make("pointwise", {}))
    assert problems(folder, "cross_encoder") == ""
    template = folder / "chat_template.jinja"
    lines = template.read_text().splitlines(keepends=True)
    assert "macro strftime_now" in lines[0]
    template.write_text("".join(lines[1:]))
    said = problems(folder, "cross_encoder")
    assert "the template's text differs" in said and "writes the date" in said
    assert problems(folder, "hf") == ""  # Reranker fixes the date itself


def test_other_weights_are_found_by_each_door(folder):
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    weights[name] = weights[name] + 0.2 * torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for target in ("hf", "cross_encoder"):
        said = problems(folder, target)
        assert "token ids are the same, and logits differ: the log-probability of" in said
        assert "the weights are not those of the export: model.safetensors has changed, as by merging" in said


@pytest.mark.parametrize("times", [0, 2])
def test_an_adapter_that_is_lost_or_merged_twice_is_found(tiny_model_dir, tmp_path, times):
    """The export has the adapter once: what a program saved later, without it or with it again, is damaged."""
    adapter = {"r": 4, "target_modules": ["q_proj", "down_proj"]}
    model = get_peft_model(load_model(tiny_model_dir, "float32"), LoraConfig(task_type="CAUSAL_LM", **adapter))
    for number, (name, weight) in enumerate(model.named_parameters()):
        if "lora_" in name:
            weight.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(number))
    with_it = dict(merged_weights(model))
    merge(model, "the adapter").save_pretrained(tmp_path / "merged")
    load_tokenizer(tiny_model_dir).save_pretrained(tmp_path / "merged")
    folder = export(tmp_path / "merged", tmp_path / "model", make("pointwise", {}))
    assert problems(folder, "hf") == problems(folder, "cross_encoder") == ""
    without = load_file(tiny_model_dir / "model.safetensors")
    damaged = {name: weight + times * (with_it[name] - weight) for name, weight in without.items()}
    save_file(damaged, folder / "model.safetensors", {"format": "pt"})
    for target in ("hf", "cross_encoder"):
        said = problems(folder, target)
        assert "token ids are the same, and logits differ" in said
        assert "model.safetensors has changed, as by merging an adapter" in said


def test_a_program_that_computes_otherwise_is_told_from_changed_weights(folder):
    changed(folder / "config.json", rope_parameters={"rope_theta": 100.0, "rope_type": "default"})
    said = problems(folder, "hf")
    assert "logits differ" in said
    assert "the weights are those of the export, so this program asks or computes otherwise with them" in said


def test_another_end_of_generation_is_found(folder):
    changed(folder / "generation_config.json", eos_token_id=[0])
    assert "generation_config.json stops at the tokens [0], and the contract at [2]" in problems(folder, "hf")


def test_a_folder_that_must_be_refused_is_found_where_it_is_not(tiny_model_dir, tmp_path):
    folder = export(tiny_model_dir, tmp_path / "model", make("listwise", {}))
    [hf, refused] = verify.verify(folder, ["hf", "cross_encoder"])
    assert not hf.problems and not refused.problems
    assert "refuses the folder, as the contract says" in refused.note
    (folder / "modules.json").unlink()
    template = folder / "chat_template.jinja"
    template.write_text(small.CHATML)
    assert "loads the folder and scores" in problems(folder, "cross_encoder")


def test_a_target_that_does_not_exist_is_refused(exported, capsys):
    assert main(["verify", f"model={exported}", "targets=[onnx]"]) == 2
    assert "or addresses such as http://localhost:8000; got 'onnx'" in capsys.readouterr().err


def test_a_folder_without_a_contract_is_refused(tiny_model_dir, capsys):
    assert main(["verify", f"model={tiny_model_dir}"]) == 2
    assert "has no reranker.json" in capsys.readouterr().err


def entry(scores, **prompt) -> GoldenScores:
    shown = [GoldenPrompt(text="ab", token_ids=[1, 2], continuations={"yes": -1.0}) for _ in scores]
    for name, value in prompt.items():
        setattr(shown[-1], name, value)
    return GoldenScores(query="q", documents=["d"] * len(scores), scores=scores, prompts=shown)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (entry([1.0, 2.0]), None),
        (entry([1.0, 2.0005]), None),
        (entry([1.0, 2.0], text="ax"), "prompt 1: the template's text differs from character 1 on: 'ax', and was 'ab'"),
        (entry([1.0, 2.0], token_ids=[1]), "prompt 1: the text is the same, and token ids differ from place 1"),
        (
            entry([1.0, 2.0], continuations={"yes": -1.1}),
            "the log-probability of 'yes' is -1.100000, and was -1.000000",
        ),
        (entry([1.0, 0.5]), "document 1: the score is 0.500000, and was 2.000000 at export; the order is another"),
        (entry([1.0, 2.5]), "document 1: the score is 2.500000, and was 2.000000 at export; the order is the same"),
        (entry([1.0, float("nan")]), "document 1: the score is nan"),
    ],
)
def test_the_first_difference_is_named(now, said):
    found = difference(entry([1.0, 2.0]), now, 1e-3)
    assert found is None if said is None else said in found.said
