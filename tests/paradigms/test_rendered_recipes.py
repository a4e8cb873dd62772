"""The prompts of every recipe, by digest: a change of a wording's words or of how it is rendered is seen here.

`python tests/paradigms/test_rendered_recipes.py` writes the file anew, for a change that is meant.
"""

import hashlib
import json
import random
from pathlib import Path

import pytest

from rl_rerank.experiment.compose import compose
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.types import Candidate, RankingExample

FILE = Path(__file__).parent / "rendered_recipes.json"
EXPERIMENTS = sorted(p.stem for p in (Path(__file__).parents[2] / "conf/experiment").glob("*.yaml"))
EXPERIMENTS.remove("images")  # whose documents are images, and these have texts
EXAMPLES = [
    RankingExample(
        "q",
        "how are glacier caves formed?",
        tuple(Candidate(f"d{i}", f"Text {i} of ice.", "" if i % 3 else f"Title {i}") for i in range(25)),
        {"d1": 2, "d4": 1, "d6": 1},
        instruction,
    )
    for instruction in ("", "relevant passages explain a process")
]


def digests(experiment):
    """Paradigm -> digest of the messages and the target of its training prompts, under `scale=cpu` and without."""
    found = {}
    for scale in ([], ["scale=cpu"]):
        config = compose("run", [f"experiment={experiment}", *scale])
        for name in sorted({config.paradigm, *config.paradigms}):
            paradigm = build_paradigm(config, name)
            said = [
                [[[m.role, m.text] for m in p.messages], p.paradigm, p.reasoning, paradigm.target(example, p)]
                for example in EXAMPLES
                for p in paradigm.prompts(example, random.Random(0))
            ]
            key = " ".join([name, *scale])
            found[key] = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_prompts_of_a_recipe_are_those_of_before(experiment):
    assert digests(experiment) == json.loads(FILE.read_text())[experiment]


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: digests(name) for name in EXPERIMENTS}, indent=1) + "\n")
