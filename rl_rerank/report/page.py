"""The page itself: its parts as records, and the template that lays them out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rl_rerank.data.overview import TITLES, SplitOverview
from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.records import Comparison, FormatShare, Metrics, RunRow
from rl_rerank.evaluation.table import few_queries, group_cell, group_names, macro, p_value, p_values, share
from rl_rerank.pages.figures import Plot
from rl_rerank.pages.templates import environment
from rl_rerank.report.evidence import Regression
from rl_rerank.report.queries import QueryCard
from rl_rerank.report.training import Training

HERE = Path(__file__).resolve().parent
MAX_SAMPLE_CHARS = 1500


@dataclass(frozen=True, slots=True)
class IssueRow:
    """One kind of thing that is wrong with answers."""

    kind: str
    count: int
    """Answers that have it."""
    place: str
    """The offending text of the example."""
    text: str
    """An answer that has it."""


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """What became of one run's answers at inference."""

    label: str
    statuses: Mapping[str, int]
    issues: tuple[IssueRow, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything the page shows. Empty parts are left out of it."""

    title: str
    subtitle: str
    metrics: Metrics
    best: Mapping[str, tuple[RunRow, ...]]
    """Measure -> the rows whose mean is highlighted."""
    protocol: tuple[str, ...]
    """The protocols of the runs in sentences."""
    weights: tuple[str, ...]
    """Fusion weights that were chosen on development queries, in sentences."""
    regressions: tuple[Regression, ...]
    by_measure: Mapping[str, tuple[Comparison, ...]]
    """Over several runs: a system against its counterpart -> the test on each measure."""
    warnings: tuple[str, ...]
    forest: Plot | None
    frontiers: tuple[Plot, ...]
    trainings: tuple[Training, ...]
    formats: Mapping[str, Mapping[str, FormatShare]]
    """Row -> paradigm -> its answers to held-out prompts."""
    format_paradigms: tuple[str, ...]
    format_plot: Plot | None
    answers: tuple[AnswerRow, ...]
    change_plot: Plot | None
    change_words: str
    system_labels: tuple[str, ...]
    """The columns of the query cards."""
    decisive: int
    """The place in `system_labels` of the system whose changes are shown."""
    queries: tuple[QueryCard, ...]
    data: tuple[SplitOverview, ...]
    """The splits of the data."""
    config: str
    """The resolved configuration as JSON."""
    facts: Mapping[str, str]

    @property
    def data_titles(self) -> tuple[str, ...]:
        """The head of the table of splits."""
        return TITLES

    @property
    def plots(self) -> list[Plot]:
        """Every plot of the page."""
        of_trainings = [plot for training in self.trainings for plot in training.plots]
        single = (self.forest, *self.frontiers, self.change_plot, self.format_plot)
        return [plot for plot in single if plot] + of_trainings


def render(page: Page) -> str:
    """The page as HTML. Whatever comes from data is escaped: documents and completions are hostile."""
    templates = environment(HERE, autoescape=True)
    templates.filters.update(group_cell=group_cell, group_names=group_names, macro=macro, too_few=too_few)
    templates.filters.update(
        share=share, p_value=p_value, p_values=p_values, signed=_signed, sign=_sign, few_queries=few_queries
    )
    return templates.get_template("page.html.j2").render(page=page, max_chars=MAX_SAMPLE_CHARS)


def _signed(value: float, digits: int = 3) -> str:
    # U+2212 is as wide as the plus sign; a rounded zero has no sign.
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _sign(value: float | None) -> str:
    return "" if not value else "gain" if value > 0 else "loss"
