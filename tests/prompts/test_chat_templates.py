"""Answers stand where they are read: outside a thought, or behind one where reasoning is asked for; or are refused."""

from dataclasses import replace

import pytest
from support import chat_templates

from rl_rerank.paradigms.base import check_template, traits
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.types import Candidate, Message, Prompt, RankingExample, Segment

EXAMPLE = RankingExample("q", "how are caves formed?", (Candidate("a", "ice"), Candidate("b", "bread")), {"a": 1})
PLAIN = [Pointwise(), PointwiseGraded(rule="expected"), FirstToken(), Setwise(), Pairwise(), Listwise(), Groupwise()]
PLAIN += [Listwise(wording="rankgpt")]
REASONING = [
    PointwiseGraded(reasoning=True),
    Setwise(reasoning=True),
    Pairwise(reasoning=True),
    Listwise(reasoning=True),
    Listwise(reasoning=True, wording="rankgpt"),
    Groupwise(reasoning=True, think_open=False),
]
CLOSED = "<think>\n\n</think>\n\n"
LLAMA = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
GEMMA = "<end_of_turn>\n<start_of_turn>model\n"
COHERE = "<|START_THINKING|>"
IM = "<|im_end|>\n<|im_start|>assistant\n"
ON, OFF = {"enable_thinking": True}, {"enable_thinking": False}
ALWAYS = "would stand inside a thought; set paradigms.{}.params.reasoning=true where the paradigm has it, or choose"
SWITCH = "lets the model think, and {} answers have no reasoning; set model.template_kwargs.enable_thinking=false"
NOT_CLOSED = "behind which nothing is thought, and {} answers begin with reasoning; leave out model.template_kwargs."
UNREAD = "opens thoughts with TAG, and {} answers are read behind </think>"

# Family, template_kwargs, and the prompt's end, or the refusal: without reasoning, and with it.
CASES = [
    ("qwen3", {}, IM + CLOSED, IM),
    ("qwen3", OFF, IM + CLOSED, NOT_CLOSED),
    ("qwen3", ON, SWITCH, IM),
    ("qwen3_thinking", {}, ALWAYS, f"{IM}<think>\n"),
    ("qwen3_thinking", OFF, ALWAYS, f"{IM}<think>\n"),
    ("r1", {}, ALWAYS, "<|endoftext|><think>\n"),
    ("llama3", {}, LLAMA, LLAMA),
    ("gemma", {}, GEMMA, GEMMA),
    ("mistral", {}, "[/INST]", "[/INST]"),
    ("chatml", {}, IM, IM),
    ("qwen35", {}, IM + CLOSED, f"{IM}<think>\n"),
    ("qwen35", ON, SWITCH, f"{IM}<think>\n"),
    ("exaone4", {}, IM + CLOSED, f"{IM}<think>\n"),
    ("exaone4", OFF, IM + CLOSED, NOT_CLOSED),
    ("smollm3", {}, f"{IM}<think>\n\n</think>\n", IM),
    ("smollm3", ON, SWITCH, IM),
    ("deepseek_v31", {}, "\n<|im_start|></think>", "\n<|im_start|><think>"),
    ("deepseek_v31", {"thinking": True}, SWITCH.replace("enable_thinking", "thinking"), "\n<|im_start|><think>"),
    ("thinking_tag", {}, ALWAYS, UNREAD.replace("TAG", "<thinking>")),
    ("exaone_deep", {}, ALWAYS, UNREAD.replace("TAG", "<thought>")),
    ("command_a", {}, f"{IM}{COHERE}<|END_THINKING|>", UNREAD.replace("TAG", COHERE)),
    ("command_a", {"reasoning": True}, SWITCH.replace("enable_thinking", "reasoning"), UNREAD.replace("TAG", COHERE)),
]


def prompt_of(paradigm):
    return paradigm.prompt(EXAMPLE, EXAMPLE.docids[: 1 if "pointwise" in paradigm.name else 2])


@pytest.mark.parametrize("paradigm", [*PLAIN, *REASONING], ids=str)
@pytest.mark.parametrize(("family", "given", "plain", "reasoned"), CASES)
def test_answers_stand_where_they_are_read_or_are_refused(family, given, plain, reasoned, paradigm):
    renderer = Renderer(chat_templates.tokenizer(family), max_prompt_tokens=2000, template_kwargs=given)
    expected = reasoned if traits(paradigm).reasoning else plain
    if "{}" not in expected:
        check_template(paradigm, renderer)
        prompt = prompt_of(paradigm)
        last = prompt.messages[-1].text[-20:]
        assert renderer(prompt).text.rpartition(last)[2] == expected
        return
    for ask in (lambda: renderer(prompt_of(paradigm)), lambda: check_template(paradigm, renderer)):
        with pytest.raises(ValueError) as refused:
            ask()
        assert f"the chat template of 'models/{family}' " in str(refused.value)
        assert expected.format(paradigm.name) in str(refused.value)


def test_prompts_that_do_not_mention_reasoning_have_none():
    """As a paradigm of somebody else's makes them."""
    messages = (Message("system", (Segment("Judge."),)), Message("user", (Segment("Is it?"),)))
    prompt = Prompt("q", ("a",), messages, "mine")
    assert Renderer(chat_templates.tokenizer("qwen3"), max_prompt_tokens=200)(prompt).text.endswith(IM + CLOSED)
    with pytest.raises(ValueError, match=ALWAYS.format("mine")):
        Renderer(chat_templates.tokenizer("r1"), max_prompt_tokens=200)(prompt)
    free = Renderer(chat_templates.tokenizer("r1"), max_prompt_tokens=200)(replace(prompt, reasoning=None))
    assert free.text.endswith("<|endoftext|><think>\n")
