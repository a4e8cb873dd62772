"""An engine that counts usage, stops at a budget, and marks failures as the teacher's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rl_rerank.engines.base import Capability, CapReached, Engine, OnCompletion
from rl_rerank.types import Completion, Prompt, Sampling

if TYPE_CHECKING:
    from rl_rerank.stages.synth.spec import SynthBudget

T = TypeVar("T")


class BudgetReached(Exception):
    """Raised when a budget leaves no room for another round of prompts."""


class TeacherFailed(Exception):
    """Raised when an engine gives no answer, for whatever reason."""


class Meter:
    """Usage of all engines of a process since its start, plus earlier usage."""

    def __init__(self, budget: SynthBudget, before: Mapping[str, float]) -> None:
        self.budget = budget
        self.before = before
        self.started = time.monotonic()
        self.engines: list[Engine] = []

    @property
    def usage(self) -> dict[str, float]:
        """Usage of this process, summed over its engines."""
        found: Counter[str] = Counter()
        for engine in self.engines:
            for name, value in engine.usage.items():
                found[name] += value  # pyright: ignore[reportArgumentType]  (a cost is a fraction)
        return dict(found)

    def check(self) -> None:
        """Raise BudgetReached, with a sentence, if a budget is reached."""
        usage = Counter(self.before) + Counter(self.usage)  # pyright: ignore[reportArgumentType]
        tokens, seconds = usage["prompt_tokens"] + usage["completion_tokens"], time.monotonic() - self.started
        for name, used in (("max_tokens", tokens), ("max_cost", usage["cost"]), ("max_seconds", seconds)):
            limit = getattr(self.budget, name)
            if limit is not None and used >= limit:
                raise BudgetReached(f"budget.{name}={limit:g} is reached: {used:.6g}")


class Metered:
    """An engine that checks the budget before it calls `engine`."""

    def __init__(self, engine: Engine, meter: Meter) -> None:
        self.inner = engine
        self.meter = meter
        self._counts: Counter[str] = Counter()

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.inner.capabilities

    @property
    def usage(self) -> Mapping[str, float]:
        """Usage counted by the engine; if it counts nothing, its prompts and the tokens of its completions."""
        return self.inner.usage or dict(self._counts)

    def render(self, prompt: Prompt) -> Any:
        return self.inner.render(prompt)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        found = self._ask(lambda: self.inner.generate(prompts, sampling, on_completion))
        self._counts.update(calls=sum(map(len, found)))
        self._counts.update(completion_tokens=sum(len(c.token_ids) for row in found for c in row))
        return found

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        found = self._ask(lambda: self.inner.score(prompts, continuations, on_completion))
        self._counts.update(calls=len(found))
        return found

    def close(self) -> None:
        self.inner.close()

    def _ask(self, ask: Callable[[], T]) -> T:
        self.meter.check()
        try:
            return ask()
        except CapReached as e:
            raise BudgetReached(str(e)) from None
        except PermissionError:
            raise  # No prompt will be answered.
        except (ValueError, OSError) as e:
            raise TeacherFailed(f"{type(e).__name__}: {e}") from e
