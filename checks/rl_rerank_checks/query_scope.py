"""ERank's mechanism: a reward that compares all of a query's documents sees all of them."""

from collections import Counter
from dataclasses import dataclass

from rl_rerank.paradigms.base import traits
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.stages.grpo.spec import GRPOStage


@dataclass(frozen=True)
class QueryScope:
    """In every step each query of the completions table, which has whole queries, has all completions of all its
    prompts: documents times generations."""

    stage: str = "grpo"

    def __call__(self, run: Run) -> list[Finding]:
        settings = run.config.stages.get(self.stage)
        if not isinstance(settings, GRPOStage):
            raise LookupError(f"a check names the grpo stage {self.stage!r}, which the experiment does not have")
        documents = traits(build_paradigm(run.config, run.config.paradigm)).prompts_per_query
        wanted = documents * settings.num_generations
        found = Counter((row["step"], row["qid"]) for row in run.rows(self.stage, "completions.jsonl"))
        whole = sum(count == wanted for count in found.values())
        return [
            Finding(
                f"{self.stage}: a query's {documents} x {settings.num_generations} completions are rewarded together",
                whole == len(found) > 0,
                f"{whole} of {len(found)} queries of all steps",
            )
        ]
