"""Training, engines and saved models stop where the chat template ends an answer, whatever the end of sequence is."""

import pytest
import torch
from support import small_tokenizers as small
from support.grpo_trainer import examples, trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local import checkpoint
from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.reward.base import Term
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.training.loop.models import save_trained
from rl_rerank.training.loop.training_prompts import Questions
from rl_rerank.types import Sampling
from rl_rerank_rewards.format import Format
from rl_rerank_rewards.ndcg import NDCG

pytestmark = pytest.mark.slow

ANSWER = "[1] > [2] > [3]"
KINDS = {"chat": small.chatml, "base": small.chatml_base}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One model, trained to answer in the shown order, beside two tokenizers that differ in the end of sequence."""
    tokenizer = small.chatml()
    renderer = Renderer(tokenizer, max_prompt_tokens=400)
    asked = Questions(examples(), Listwise(window=3, stride=1), renderer, count=8, seed=1)
    answer = [*renderer.continuation_ids(ANSWER), renderer.end_id]
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=4, num_key_value_heads=2, **shape)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(150):
        prompt = asked[step % len(asked)].token_ids
        ids = torch.tensor([[*prompt, *answer]])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = {}
    for name, make in KINDS.items():
        found[name] = tmp_path_factory.mktemp(name)
        tokenizer = make()
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.config.bos_token_id = model.generation_config.bos_token_id = None
        model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
    return found


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """One GRPO step for each: kind -> (logged row, completions, folder of the saved model)."""
    found = {}
    for kind, folder in folders.items():
        output = tmp_path_factory.mktemp(f"{kind}-run")
        tokenizer = checkpoint.load_tokenizer(folder)
        run = trainer(
            folder,
            tokenizer,
            output,
            terms=[Term("format", Format()), Term("ndcg", NDCG())],
            max_steps=1,
            learning_rate=1e-6,
            temperature=0.5,
            max_completion_length=Listwise(window=3, stride=1).max_completion_tokens,
        )
        run.train()
        settings = {"stage": GRPOStage(kind="grpo"), "model": ModelConfig(), "start": folder}
        save_trained(run, tokenizer, output / "model", **settings)
        row = next(row for row in run.state.log_history if "reward" in row)
        found[kind] = row, run.completions, output / "model"
    return found


def prompt(tokenizer):
    renderer = Renderer(tokenizer, max_prompt_tokens=400)
    return Questions(examples(), Listwise(window=3, stride=1), renderer, count=8, seed=1)[0]


def test_a_base_model_earns_in_grpo_what_a_chat_model_earns(trained):
    (base, base_rows, _), (chat, chat_rows, _) = trained["base"], trained["chat"]
    assert base["well_formed"] == chat["well_formed"] == 1
    assert base["completions/clipped_ratio"] == chat["completions/clipped_ratio"] == 0
    assert base["reward"] == chat["reward"] > 0
    assert [row["completion"] for row in base_rows] == [row["completion"] for row in chat_rows]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_alone_stops_a_saved_model_where_its_answer_ends(kind, trained, tmp_path):
    saved, exported = trained[kind][2], tmp_path / "exported"
    checkpoint.copy(saved, exported, "float32")
    for folder in (saved, exported):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = torch.tensor([prompt(tokenizer).token_ids])
        output = AutoModelForCausalLM.from_pretrained(folder).generate(ids, max_new_tokens=40, do_sample=False)
        assert tokenizer.decode(output[0, ids.shape[1] :]) == f"{ANSWER}<|im_end|>"


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_stops_where_training_stops(kind, trained):
    folder = trained[kind][2]
    engine = HFEngine(folder, checkpoint.renderer(ModelConfig(), folder))
    asked = prompt(engine.renderer.tokenizer).prompt
    [[answer]] = engine.generate([asked], Sampling(max_tokens=40))
    assert (answer.text, answer.finish_reason) == (ANSWER, "stop")
    assert {*engine.stop_ids} == {*checkpoint.load_model(folder, "float32").generation_config.eos_token_id}


@pytest.mark.engine
def test_vllm_alone_stops_a_saved_model_where_its_answer_ends(trained):
    from rl_rerank.engines.local import vllm_environment

    vllm_environment.apply()
    from vllm import LLM

    folder = trained["base"][2]
    llm = LLM(str(folder), dtype="float32", max_model_len=512, enforce_eager=True, seed=0)
    asked = prompt(AutoTokenizer.from_pretrained(folder))
    sampling = llm.get_default_sampling_params()
    sampling.temperature, sampling.max_tokens = 0.0, 40
    [output] = llm.generate([{"prompt_token_ids": list(asked.token_ids)}], sampling)
    assert output.outputs[0].finish_reason == "stop"
    assert output.outputs[0].text == ANSWER
