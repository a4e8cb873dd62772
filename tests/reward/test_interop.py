"""Rewards in both directions: ours in a plain trl trainer, trl's among ours."""

import pickle

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import GRPOConfig

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.reward.base import RewardError, Term, evaluate
from rl_rerank.reward.interop import as_trl
from rl_rerank.training.grpo.trl_imports import GRPOTrainer  # trl's own, less vLLM
from rl_rerank.types import Candidate, Completion, Judgment, Message, Prompt, RankingExample, Rollout, Segment, Status
from rl_rerank_rewards.erank import ERank
from rl_rerank_rewards.multiview import MultiView
from rl_rerank_rewards.ndcg import NDCG
from rl_rerank_rewards.reward_model import RewardModel
from rl_rerank_rewards.trl_function import TRLFunction

EXAMPLE = RankingExample("q", "query", tuple(Candidate(d, f"text {d}") for d in "ab"), {"b": 1})


def test_ours_is_called_as_trl_calls_its_own():
    reward = pickle.loads(pickle.dumps(as_trl(NDCG(malformed=-1.0), Listwise(), [EXAMPLE], name="order")))
    assert reward.__name__ == "order"
    columns = {"qid": ["q", "q", "q"], "docids": [["a", "b"]] * 3}
    completions = ["[2] > [1]", [{"role": "assistant", "content": "[1] > [2]"}], "b"]
    # b first: 1; b second: 1/log2(3); no order
    assert reward(prompts=[""] * 3, completions=completions, **columns) == pytest.approx([1.0, 0.63093, -1.0], abs=1e-5)
    with pytest.raises(LookupError, match="the column qid names 'other', which is no example"):
        reward(completions=[""], qid=["other"], docids=[["a"]])


def test_a_reward_of_whole_queries_is_refused():
    with pytest.raises(ValueError, match="ERank compares all completions of a query"):
        as_trl(ERank(), Listwise(), [EXAMPLE])


def test_ours_trains_in_a_plain_trl_trainer(tiny_model_dir, chatml_tokenizer, tmp_path):
    args = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=4,
        max_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
    )
    run = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32),
        args=args,
        reward_funcs=[as_trl(MultiView(), Listwise(), [EXAMPLE])],
        train_dataset=Dataset.from_dict({"prompt": ["rank a and b"], "qid": ["q"], "docids": [["a", "b"]]}),
        processing_class=chatml_tokenizer,
    )
    run.train()
    # random text is no permutation: the rung `answer`
    assert run.state.log_history[0]["rewards/MultiView/mean"] == 0.0


def rollout(text):
    prompt = Prompt("q", ("a", "b"), (Message("user", (Segment("which "), Segment("one", field="query"))),))
    return Rollout(prompt, Completion(text, (5, 6)), Judgment(Status.ok))


def test_trls_own_function_is_a_term():
    reward = pickle.loads(pickle.dumps(TRLFunction()))
    assert reward(EXAMPLE, rollout("<think>so</think> b")) == 1.0
    assert reward(EXAMPLE, rollout("b")) == 0.0


def test_an_asynchronous_function_is_waited_for(tmp_path):
    file = tmp_path / "slowly.py"
    file.write_text(
        "import asyncio\n"
        "async def slowly(completions, **_):\n"
        "    await asyncio.sleep(0)\n"
        "    return [float(len(completions[0]))]\n"
    )
    assert TRLFunction(f"{file}:slowly", conversational=False)(EXAMPLE, rollout("abc")) == 3.0


def test_a_function_from_a_file_gets_columns_and_may_not_leave_a_completion_out(tmp_path):
    file = tmp_path / "theirs.py"
    file.write_text(
        "def theirs(prompts, completions, completion_ids, qid, docids, **_):\n"
        "    if not completions[0]:\n"
        "        return [None]\n"
        "    return [len(completion_ids[0]) + len(docids[0]) + (prompts == ['which one']) + (qid == ['q'])]\n"
    )
    reward = TRLFunction(f"{file}:theirs", conversational=False)
    assert reward(EXAMPLE, rollout("b")) == 2 + 2 + 1 + 1
    with pytest.raises(ValueError, match="left the completion out by None; say what that is worth"):
        reward(EXAMPLE, rollout(""))
    assert TRLFunction(f"{file}:theirs", conversational=False, none=-1.0)(EXAMPLE, rollout("")) == -1.0


@pytest.fixture(scope="module")
def reward_model_dir(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward_model")
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1, dtype=torch.float32)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return str(folder)


def test_a_reward_model_says_what_it_says_in_a_plain_trl_trainer(reward_model_dir, tiny_model_dir, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(reward_model_dir)
    run = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32),
        args=GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], num_generations=2),
        reward_funcs=AutoModelForSequenceClassification.from_pretrained(reward_model_dir),
        reward_processing_classes=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": "?"}]]}),
        processing_class=tokenizer,
    )
    prompt = [{"role": "user", "content": "which one"}]
    texts = ["b", "a much longer answer"]
    said = [[{"role": "assistant", "content": text}] for text in texts]
    theirs = run._calculate_rewards([{}, {}], [prompt, prompt], said, [[5], [5, 6]])[:, 0].tolist()
    ours = pickle.loads(pickle.dumps(RewardModel(reward_model_dir)))
    found = evaluate(Term("reward_model", ours), EXAMPLE, [rollout(text) for text in texts])
    assert [value.value for value in found] == pytest.approx(theirs, abs=1e-6)
    assert theirs[0] != theirs[1]
    [found] = evaluate(Term("reward_model", ours), EXAMPLE, [rollout("half a character \ud800")])
    assert isinstance(found.value, float)


def test_a_model_that_is_no_reward_model_is_refused(tiny_model_dir, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=3).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    with pytest.raises(RewardError, match=r"reward 'odd' failed .* has 3 labels, and needs one"):
        evaluate(Term("odd", RewardModel(str(tmp_path))), EXAMPLE, [rollout("b")])
