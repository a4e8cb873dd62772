import copy

import pytest

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.loop.rows import IGNORED, tokenised
from rl_rerank.types import Candidate, RankingExample


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


def test_where_the_template_opens_the_reasoning_there_is_one_opening_tag(chatml_tokenizer):
    tokenizer = copy.deepcopy(chatml_tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n{%", "assistant\n<think>\n{%")
    renderer = Renderer(tokenizer, max_prompt_tokens=300)
    example = OneExample().example("q")
    texts = []
    for think_open in (True, False):
        paradigm = Listwise(window=2, reasoning=True, think_open=think_open)
        target = paradigm.target(example, paradigm.prompt(example, ["a", "b"]))
        row = {"qid": "q", "paradigm": "listwise", "docids": ["a", "b"], "target": target}
        if think_open:
            [tokens] = tokenised([row], OneExample(), {"listwise": paradigm}, renderer)["input_ids"]
            texts.append(tokenizer.decode(tokens).partition("<|im_start|>assistant\n")[2])
        else:
            with pytest.raises(
                ValueError, match=r"ends a prompt with <think>.*paradigms\.listwise\.params\.think_open=true"
            ):
                tokenised([row], OneExample(), {"listwise": paradigm}, renderer)
    assert texts[0].startswith("<think>\n") and texts[0].count("<think>") == texts[0].count("</think>") == 1
    assert texts[0].endswith("</think><answer>[2] > [1]</answer><|im_end|>")
