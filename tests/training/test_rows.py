from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.rendering import Renderer
from rl_rerank.training.rows import IGNORED, tokenised
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
