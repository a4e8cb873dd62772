"""The objective of policy=scores over a few made-up queries."""

from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.reward.base import Term
from rl_rerank.training.exact.lists import lists, reading
from rl_rerank.training.exact.scores import ScoreSettings, ScoresObjective
from rl_rerank.types import Candidate, RankingExample
from rl_rerank_rewards.ndcg import NDCG

EXAMPLES = [
    RankingExample(
        f"q{q}",
        f"question number {q}",
        tuple(Candidate(f"q{q}d{d}", f"passage {d} of query {q} " * (d + 1)) for d in range(3 + q % 2)),
        {f"q{q}d{q % 3}": 2, f"q{q}d{(q + 1) % 3}": 1},
    )
    for q in range(4)
]


def scores_objective(tokenizer, *terms, paradigm=None, count=8, examples=EXAMPLES, targets=None, **settings):
    paradigm = paradigm or Pointwise()
    renderer = Renderer(tokenizer, max_prompt_tokens=400)
    asked = lists(examples, paradigm, renderer, count=count, size=None, seed=1, targets=targets)
    given = ScoreSettings(**{"num_generations": 6, **settings})
    named = [Term(f"r{i}", term) for i, term in enumerate(terms or (NDCG(),))]
    return ScoresObjective(asked, reading(paradigm, renderer), named, given)
