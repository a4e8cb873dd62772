import json

import pytest
from scipy.stats import spearmanr
from support import chat_templates

from rl_rerank.data import examples
from rl_rerank.io.files import write_jsonl
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.loop.rows import IGNORED, RowFile, tokenised
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
    assert made[0]["input_ids"] == made[1]["input_ids"]
    text = tokenizer.decode(made[0]["input_ids"]).partition("<|im_start|>assistant\n")[2]
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
            [one] = tokenised([row], OneExample(), {paradigm.name: paradigm}, renderer)
            made[family] = tokenizer.decode(one["input_ids"]).rpartition("assistant\n")[2]
        except ValueError as e:
            made[family] = "refused" if "would stand inside a thought" in str(e) else str(e)
    ended = f"<think>\n\n</think>\n\n{target}<|im_end|>"
    assert made == {"qwen3": ended, "qwen3_thinking": "refused", "r1": "refused"}


def synthesised(folder, num_examples=9):
    """Examples of very different sizes, and two rows about each; returns the rows as they were written."""
    made = [
        RankingExample(
            f"q{n}",
            f"query {n}",
            tuple(Candidate(f"q{n}d{i}", f"text {i} " * 3 ** (n % 4)) for i in range(2 + n % 3)),
            {f"q{n}d0": 1},
            split="train",
        )
        for n in range(num_examples)
    ]
    (folder / "examples.jsonl").write_text("".join(map(examples.line, made)))
    rows = []
    for one in made:
        rows.append({"qid": one.qid, "paradigm": "pointwise", "docids": [one.docids[0]], "target": "yes"})
        order = " > ".join(f"[{i + 1}]" for i in range(len(one.docids)))
        rows.append({"qid": one.qid, "paradigm": "listwise", "docids": [*one.docids], "target": order})
    write_jsonl(folder / "rows.jsonl", rows)
    return rows


def test_rows_are_read_from_the_file_one_by_one_and_are_those_that_are_made_at_once(chatml_tokenizer, tmp_path):
    written = synthesised(tmp_path)
    found = examples.ExampleFile(tmp_path / "examples.jsonl")
    rows = RowFile(tmp_path / "rows.jsonl", found, 300)
    assert list(rows) == written and rows[3:5] == written[3:5] and rows.paradigms == {"pointwise", "listwise"}
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=300)
    paradigms = {"pointwise": Pointwise(), "listwise": Listwise(window=9)}
    made = tokenised(rows, found, paradigms, renderer)
    by_qid = {one.qid: one for one in found}
    for number in (17, 0, 8, 3):  # in any order
        row = written[number]
        prompt = renderer(paradigms[row["paradigm"]].prompt(by_qid[row["qid"]], row["docids"])).token_ids
        answer = [*renderer.continuation_ids(row["target"]), renderer.end_id]
        assert made[number] == {"input_ids": [*prompt, *answer], "labels": [IGNORED] * len(prompt) + answer}


def test_the_estimated_lengths_put_rows_in_nearly_the_order_of_their_lengths(chatml_tokenizer, tmp_path):
    synthesised(tmp_path, num_examples=40)
    found = examples.ExampleFile(tmp_path / "examples.jsonl")
    rows = RowFile(tmp_path / "rows.jsonl", found, 300)
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=300)
    made = tokenised(rows, found, {"pointwise": Pointwise(), "listwise": Listwise(window=9)}, renderer)
    lengths = [len(one["input_ids"]) for one in made]
    assert spearmanr(lengths, rows.lengths).statistic > 0.8
    assert len(set(rows.lengths.tolist())) > 5


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ('{"qid": "q0", "paradigm": "listwise", "docids": []', ValueError, r"rows\.jsonl:2: no row of a synth stage"),
        ('{"qid": "q0", "docids": []}', ValueError, r"rows\.jsonl:2: .*KeyError\('paradigm'\)"),
        (
            '{"qid": "gone", "paradigm": "listwise", "docids": [], "target": ""}',
            LookupError,
            r"examples\.jsonl' has no example with qid 'gone'",
        ),
    ],
)
def test_a_line_that_is_no_row_is_refused_before_training(tmp_path, line, error, says):
    first = synthesised(tmp_path)[0]
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(first)}\n{line}\n")
    with pytest.raises(error, match=says):
        RowFile(tmp_path / "rows.jsonl", examples.ExampleFile(tmp_path / "examples.jsonl"), 300)
