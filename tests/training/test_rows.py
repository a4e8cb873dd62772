import pytest
from support import chat_templates

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.loop.rows import IGNORED, tokenised
from rl_rerank.types import Candidate, RankingExample

SETWISE = Setwise(labels="numbers", reasoning=True)


class OneExample:
    """A store of one example."""

    def example(self, qid):
        return RankingExample(qid, "query", (Candidate("a", "first"), Candidate("b", "second")), {"b": 1})


def test_only_the_answer_and_its_end_token_are_learned(chatml_tokenizer):
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=300)
    rows = [
        {"qid": "q", "paradigm": "pointwise", "docids": ["b"], "target": "yes"},
        {"qid": "q", "paradigm": "listwise", "docids": ["b", "a"], "target": "[1] > [2]"},
    ]
    paradigms = {"pointwise": Pointwise(), "listwise": Listwise(window=2)}
    for row, written in zip(tokenised(rows, OneExample(), paradigms, renderer), rows, strict=True):
        prompt = renderer(paradigms[written["paradigm"]].prompt(OneExample().example("q"), written["docids"]))
        n = len(prompt.token_ids)
        assert tuple(row["input_ids"][:n]) == prompt.token_ids
        assert row["labels"][:n] == [IGNORED] * n
        assert row["labels"][n:] == row["input_ids"][n:]
        assert chatml_tokenizer.decode(row["labels"][n:-1]) == written["target"]
        assert row["labels"][-1] == renderer.end_id


@pytest.mark.parametrize(
    "paradigm", [Listwise(reasoning=True, think_open=True), Listwise(reasoning=True), SETWISE], ids=str
)
def test_where_the_template_opens_the_reasoning_there_is_one_opening_tag(paradigm):
    example, tokenizer = OneExample().example("q"), chat_templates.tokenizer("qwen3_thinking")
    target = paradigm.target(example, paradigm.prompt(example, ["a", "b"]))
    rows = [
        {"qid": "q", "paradigm": paradigm.name, "docids": ["a", "b"], "target": text}
        for text in (target, f"<think>{target.removeprefix('<think>')}")  # ours, and a teacher's who opened it himself
    ]
    made = tokenised(rows, OneExample(), {paradigm.name: paradigm}, Renderer(tokenizer, max_prompt_tokens=300))
    assert made["input_ids"][0] == made["input_ids"][1]
    text = tokenizer.decode(made["input_ids"][0]).partition("<|im_start|>assistant\n")[2]
    assert text.startswith("<think>\n") and text.count("<think>") == text.count("</think>") == 1
    assert text.endswith(f"<answer>{'[2]' if paradigm is SETWISE else '[2] > [1]'}</answer><|im_end|>")


def test_answers_that_begin_inside_a_thought_need_a_template_that_opens_it(chatml_tokenizer):
    paradigm = Listwise(reasoning=True, think_open=True)
    with pytest.raises(ValueError, match=r"paradigms\.listwise\.params\.think_open=true: .* leave think_open out"):
        tokenised([], OneExample(), {"listwise": paradigm}, Renderer(chatml_tokenizer, max_prompt_tokens=300))


@pytest.mark.parametrize("paradigm", [Pointwise(), Listwise()], ids=str)
def test_answers_without_reasoning_are_not_learned_inside_a_thought(paradigm):
    example = OneExample().example("q")
    docids = ["a", "b"][: 1 if paradigm.name == "pointwise" else 2]
    target = paradigm.target(example, paradigm.prompt(example, docids))
    row = {"qid": "q", "paradigm": paradigm.name, "docids": docids, "target": target}
    made = {}
    for family in ("qwen3", "qwen3_thinking", "r1"):
        tokenizer = chat_templates.tokenizer(family)
        renderer = Renderer(tokenizer, max_prompt_tokens=300)
        try:
            [ids] = tokenised([row], OneExample(), {paradigm.name: paradigm}, renderer)["input_ids"]
            made[family] = tokenizer.decode(ids).rpartition("assistant\n")[2]
        except ValueError as e:
            made[family] = "refused" if "would stand inside a thought" in str(e) else str(e)
    ended = f"<think>\n\n</think>\n\n{target}<|im_end|>"
    assert made == {"qwen3": ended, "qwen3_thinking": "refused", "r1": "refused"}
