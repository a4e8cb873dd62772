"""RecGaze's mechanism: which places of a carousel page people examine, and how much of their clicks that explains."""

from dataclasses import dataclass

import numpy as np

from rl_rerank.evaluation.clicks import positions
from rl_rerank.evaluation.clicks.pages import ClickModel, Pages, log_likelihood, perplexity
from rl_rerank.evaluation.clicks.positions import PositionModel
from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.statistics import paired_test
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank_checks import visits

LEVEL = 0.05


@dataclass(frozen=True)
class Examination:
    """Examination by row and column is estimated well, and explains clicks on pages that it was not estimated on.

    The position-based model is fitted to training visits: to clicks and gaze, and to clicks alone. Both have to give
    the test visits' clicks a higher log-likelihood than a model in which all places are examined alike, by a paired
    test. Where a simulator knows the examination (the feature `theta`), the feature `examination` must be close to it.
    """

    within: float = 0.05
    """The largest mean distance between `examination` and `theta`."""

    def __call__(self, run: Run) -> list[Finding]:
        train, kinds = visits.pages(run.store.examples("train"))
        test, _ = visits.pages(run.store.examples("test"), kinds)
        observed, clicks = positions.fit_observed(train), positions.fit(train)
        alike = _alike(train)
        return [
            *self._known(run),
            _explains("clicks and gaze", observed, alike, test, run.config.seed),
            _explains("clicks alone", clicks, alike, test, run.config.seed),
        ]

    def _known(self, run: Run) -> list[Finding]:
        found: dict[tuple[float, float], float] = {}
        for example in run.store.examples("train"):
            for candidate in example.candidates:
                if "theta" not in candidate.features:
                    return []
                place, estimate, theta = (
                    (visits.number(example, candidate, "row"), visits.number(example, candidate, "column")),
                    visits.number(example, candidate, "examination"),
                    visits.number(example, candidate, "theta"),
                )
                found[place] = abs(estimate - theta)
        mean, largest = float(np.mean(list(found.values()))), max(found.values())
        what = f"examination of a place is within {self.within:g} of the simulator's on average"
        said = f"{mean:.3f}, at most {largest:.3f}, over {len(found)} places"
        return [Finding(what, mean <= self.within, said)]


def _alike(pages: Pages) -> PositionModel:
    """The model in which a click depends on the kind of item alone."""
    clicks = np.bincount(pages.kinds[pages.clicked], minlength=pages.num_kinds)
    shown = np.bincount(pages.kinds.ravel(), minlength=pages.num_kinds)
    return PositionModel(np.ones(pages.kinds.shape[1:]), (clicks + 1.0) / (shown + 2.0))


def _explains(what: str, model: ClickModel, alike: ClickModel, test: Pages, seed: int) -> Finding:
    what = f"examination by {what} explains held-out clicks better than none (p < .05)"
    if reason := too_few(len(test.kinds)):
        return Finding(what, False, reason)
    ours, theirs = model.log_likelihoods(test).tolist(), alike.log_likelihoods(test).tolist()
    tested = paired_test(ours, theirs, seed)
    said = (
        f"log-likelihood {log_likelihood(model, test):.3f} and {log_likelihood(alike, test):.3f} a visit, on "
        f"{len(ours)} visits, p = {tested.p_value:.3g}; perplexity {perplexity(model, test):.4f} and "
        f"{perplexity(alike, test):.4f}"
    )
    return Finding(what, tested.difference > 0 and tested.p_value < LEVEL, said)
