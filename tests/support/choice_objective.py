"""The objective of policy=choice over a few made-up queries."""

from rl_rerank.prompts.rendering import Renderer
from rl_rerank.reward.base import Term
from rl_rerank.training.exact.choice import ChoiceObjective, ChoiceSettings
from rl_rerank.training.loop.training_prompts import Questions
from rl_rerank.types import Candidate, RankingExample

EXAMPLES = [
    RankingExample(
        f"q{q}",
        f"question number {q}",
        tuple(Candidate(f"q{q}d{d}", f"passage {d} of query {q} " * (d + 1)) for d in range(4)),
        {f"q{q}d{q % 4}": 2, f"q{q}d{(q + 1) % 4}": 1},
    )
    for q in range(4)
]


def choice_objective(tokenizer, paradigm, reward, **settings):
    renderer = Renderer(tokenizer, max_prompt_tokens=400)
    asked = Questions(EXAMPLES, paradigm, renderer, count=6, seed=1)
    return ChoiceObjective(asked, paradigm, renderer, [Term("r", reward, 0.7)], ChoiceSettings(**settings), pad_id=0)
