"""The report's plots. Each is drawn twice, for light and for dark pages; pyplot's global state is never touched."""

import base64
import io
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

Points = Sequence[tuple[float, float]]
"""(step, value) in step order."""

DPI = 180
SMALL = 8
"""Points; the size of everything that is written into a plot."""
MAX_LABEL_CHARS = 32
END_CHARS = 12
SHORT_CHARS = 6
"""Labels of bars that stand side by side."""
WIDE = 50
"""Ratio of the largest value to the median positive one from which an axis is logarithmic, and linear around 0."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of one page scheme."""

    paper: str
    text: str
    grid: str
    series: tuple[str, ...]
    gain: str
    loss: str

    def color(self, number: int) -> str:
        """The colour of the series with this number."""
        return self.series[number % len(self.series)]


LIGHT = Theme(
    paper="#ffffff",
    text="#3b4046",
    grid="#dfe2e6",
    series=("#1f6fb2", "#c8591b", "#2a8a5b", "#8a4fa3", "#8a7a1f", "#5b6470"),
    gain="#1f6fb2",
    loss="#c8591b",
)
DARK = Theme(
    paper="#16181b",
    text="#c3c7cc",
    grid="#363b42",
    series=("#6aaee6", "#f0955a", "#6cc79a", "#c79add", "#d3c264", "#a3abb5"),
    gain="#6aaee6",
    loss="#f0955a",
)


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot of the page."""

    name: str
    """File name without its suffix."""
    title: str
    width: float
    """Inches; what the page shows it at."""
    light: bytes
    """PNG."""
    dark: bytes

    @property
    def light_uri(self) -> str:
        """The light PNG as a data URI."""
        return _uri(self.light)

    @property
    def dark_uri(self) -> str:
        """The dark PNG as a data URI."""
        return _uri(self.dark)

    @property
    def pixels(self) -> int:
        """Width in CSS pixels."""
        return round(self.width * 96)


def intervals(name: str, title: str, rows: Sequence[tuple[str, float, tuple[float, float]]], reference: float) -> Plot:
    """A forest plot: one row a system with its mean and interval, and a line at `reference`."""

    def draw(axes: Axes, theme: Theme) -> None:
        axes.axvline(reference, color=theme.text, linewidth=0.8, linestyle=(0, (3, 3)))
        for place, (_, mean, (low, high)) in enumerate(rows):
            axes.plot([low, high], [place, place], color=theme.color(0), linewidth=2, solid_capstyle="butt")
            axes.plot(mean, place, "o", color=theme.color(0), markersize=5)
            _note(axes, theme, f"{mean:.3f}", (mean, place), (0, 7), ha="center", va="bottom")
        axes.set_yticks(range(len(rows)), [_plain(label) for label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.6, -0.8)
        axes.grid(axis="x", color=theme.grid, linewidth=0.8)

    return _plot(name, title, (3.7, 0.5 + 0.44 * len(rows)), draw)


def curves(
    name: str, title: str, lines: Mapping[str, Points], window: int = 1, *, is_named: bool | None = None
) -> Plot:
    """Values over steps. With `window` above 1 the values are pale, under their trailing mean over that many rows.

    Args:
        is_named: whether there is a legend; None: where there are several lines.
    """
    has_legend = len(lines) > 1 if is_named is None else is_named

    def draw(axes: Axes, theme: Theme) -> None:
        for number, points in enumerate(lines.values()):
            color = theme.color(number)
            steps, values = [step for step, _ in points], [value for _, value in points]
            marker = "o" if len(points) == 1 else None
            if window > 1:
                axes.plot(steps, values, color=color, alpha=0.35, linewidth=0.9)
                values = moving_average(values, window)
            axes.plot(steps, values, color=color, linewidth=1.6, marker=marker, markersize=3)
        axes.set_xlabel("step", color=theme.text, fontsize=SMALL)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=theme.grid, linewidth=0.8)
        if has_legend:
            _legend(axes, theme, {label: {"color": theme.color(i)} for i, label in enumerate(lines)})

    return _plot(name, title, (3.5, 2.3), draw)


def bars(name: str, title: str, groups: Sequence[str], values: Mapping[str, Sequence[float | None]]) -> Plot:
    """Shares in [0, 1]: one group of horizontal bars for each of `groups`, one bar in it for each of `values`."""

    def draw(axes: Axes, theme: Theme) -> None:
        height = 0.8 / len(values)
        for number, shares in enumerate(values.values()):
            for place, share in enumerate(shares):
                if share is not None:
                    at = place - 0.4 + height * (number + 0.5)
                    axes.barh(at, share, height * 0.86, color=theme.color(number))
                    _note(axes, theme, f"{100 * share:.0f}%", (share, at), (3, 0), ha="left", va="center")
        axes.set_yticks(range(len(groups)), [_plain(group) for group in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes.set_axisbelow(True)
        axes.grid(axis="x", color=theme.grid, linewidth=0.8)
        _legend(axes, theme, {label: {"color": theme.color(i), "linewidth": 6} for i, label in enumerate(values)})

    return _plot(name, title, (5.0, 0.8 + 0.22 * len(groups) * len(values)), draw)


def columns(name: str, title: str, labels: Sequence[str], counts: Sequence[int], axis: str) -> Plot:
    """One bar for each label, with its count at its end; lying down where labels are long."""
    is_lying = max(map(len, labels), default=0) > SHORT_CHARS

    def draw(axes: Axes, theme: Theme) -> None:
        (axes.barh if is_lying else axes.bar)(range(len(counts)), counts, 0.86, color=theme.color(0))
        for place, count in enumerate(counts):
            if count and is_lying:
                _note(axes, theme, f"{count:,}", (count, place), (3, 0), ha="left", va="center")
            elif count:
                _note(axes, theme, f"{count:,}", (place, count), (0, 2), ha="center", va="bottom")
        names, values = (axes.yaxis, axes.xaxis) if is_lying else (axes.xaxis, axes.yaxis)
        names.set_ticks(range(len(labels)), [_plain(label) for label in labels])
        values.set_ticks([])
        top = 1.15 * max([1, *counts])
        axes.set(xlim=(0, top), ylim=(len(labels) - 0.5, -0.5)) if is_lying else axes.set(ylim=(0, top))
        names.set_label_text(_plain(axis), color=theme.text, fontsize=SMALL)

    size = (5.0, 0.6 + 0.24 * len(labels)) if is_lying else (min(1.2 + 0.42 * len(labels), 7.0), 2.3)
    return _plot(name, title, size, draw)


def frontier(
    name: str, title: str, points: Sequence[tuple[str, float, float]], front: Set[int], cost: str, quality: str
) -> Plot:
    """Quality over cost, each system with its name; those of the front are filled and joined by a step line.

    Args:
        points: (label, cost, quality).
        front: places of the points that nothing dominates.
        cost, quality: the axes' names.
    """
    costs, values = [x for _, x, _ in points], [y for _, _, y in points]
    positive = [x for x in costs if x > 0]
    is_wide = bool(positive) and max(positive) > WIDE * statistics.median(positive)
    middle = math.sqrt(min(positive) * max(positive)) if is_wide else (min(costs) + max(costs)) / 2
    gap = 0.09 * ((max(values) - min(values)) or 1.0)
    heights = list(values)
    for is_right in (False, True):
        side = [place for place, x in enumerate(costs) if (x > middle) == is_right]
        for place, height in zip(side, spread([values[place] for place in side], gap), strict=True):
            heights[place] = height
    steps = sorted((x, y) for place, (_, x, y) in enumerate(points) if place in front)

    def draw(axes: Axes, theme: Theme) -> None:
        if is_wide:
            axes.set_xscale("symlog", linthresh=min(positive))
        axes.step([x for x, _ in steps], [y for _, y in steps], where="post", color=theme.gain, linewidth=1.2)
        axes.margins(x=0.08)
        axes.set_ylim(min(*values, *heights) - gap, max(*values, *heights) + gap)
        for place, (_, x, y) in enumerate(points):
            is_best = place in front
            fill, rim = (theme.gain, theme.gain) if is_best else (theme.paper, theme.text)
            axes.plot(x, y, "o", markersize=6, markerfacecolor=fill, markeredgecolor=rim, zorder=3)
        for (label, x, _), height in zip(points, heights, strict=True):
            is_right = x > middle
            beside = offset_copy(axes.transData, axes.get_figure(root=True), x=-7 if is_right else 7, units="points")
            style = {"color": theme.text, "fontsize": SMALL, "ha": "right" if is_right else "left", "va": "center"}
            axes.text(x, height, _plain(label), transform=beside, bbox=_box(theme), zorder=2.5, **style)
        axes.set_xlabel(_plain(cost), color=theme.text, fontsize=SMALL)
        axes.set_ylabel(_plain(quality), color=theme.text, fontsize=SMALL)
        axes.set_axisbelow(True)
        axes.grid(color=theme.grid, linewidth=0.8)

    return _plot(name, title, (5.0, 2.8), draw)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """The values moved apart, so that no two are nearer than `gap`; their order and their mean stay."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    if not values:
        return []
    moved = list(values)
    for before, place in itertools.pairwise(order):
        moved[place] = max(moved[place], moved[before] + gap)
    shift = sum(moved) / len(moved) - sum(values) / len(values)
    return [value - shift for value in moved]


def changes(name: str, title: str, pairs: Sequence[tuple[float, float]], axis: str, before: str, after: str) -> Plot:
    """One vertical dumbbell a query, from `before` to `after`, sorted by the change, the largest gain first."""
    ordered = sorted(pairs, key=lambda pair: (pair[0] - pair[1], -pair[1]))
    is_share = all(0 <= value <= 1 for pair in ordered for value in pair)

    def draw(axes: Axes, theme: Theme) -> None:
        size = max(1.5, min(4.5, 260 / max(len(ordered), 1)))
        for place, (old, new) in enumerate(ordered):
            color = theme.gain if new > old else theme.loss if new < old else theme.text
            axes.plot([place, place], [old, new], color=color, linewidth=size / 2.5, alpha=0.75)
            axes.plot(place, old, "o", markersize=size, markeredgecolor=color, markerfacecolor=theme.paper)
            axes.plot(place, new, "o", markersize=size, color=color)
        axes.set_xlim(-1, len(ordered))
        if is_share:
            axes.set_ylim(-0.04, 1.04)
        axes.set_xticks([])
        axes.set_xlabel("queries, by change", color=theme.text, fontsize=SMALL)
        axes.set_ylabel(_plain(axis), color=theme.text, fontsize=SMALL)
        axes.grid(axis="y", color=theme.grid, linewidth=0.8)
        hollow = {
            "marker": "o",
            "linestyle": "",
            "markersize": 4.5,
            "color": theme.text,
            "markerfacecolor": theme.paper,
        }
        _legend(axes, theme, {before: hollow, after: {**hollow, "markerfacecolor": theme.text}})

    return _plot(name, title, (5.0, 2.8), draw)


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and the `window` - 1 before it (fewer at the start)."""
    parts = (values[max(0, end - window) : end] for end in range(1, len(values) + 1))
    return [sum(part) / len(part) for part in parts]


def _plot(name: str, title: str, size: tuple[float, float], draw: Callable[[Axes, Theme], None]) -> Plot:
    light, dark = (_png(size, theme, draw) for theme in (LIGHT, DARK))
    return Plot(name, title, size[0], light, dark)


def _png(size: tuple[float, float], theme: Theme, draw: Callable[[Axes, Theme], None]) -> bytes:
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes, theme)
    axes.tick_params(colors=theme.text, labelsize=SMALL, length=0)
    axes.set_facecolor("none")
    for side in axes.spines.values():
        side.set_visible(False)
    buffer = io.BytesIO()
    # Without the metadata the file would change with matplotlib's version.
    figure.savefig(buffer, format="png", facecolor=theme.paper, metadata={"Software": None})
    return buffer.getvalue()


def _note(
    axes: Axes, theme: Theme, text: str, at: tuple[float, float], offset: tuple[float, float], *, ha: str, va: str
) -> None:
    place: dict[str, Any] = {"textcoords": "offset points", "ha": ha, "va": va}
    axes.annotate(text, at, offset, color=theme.text, fontsize=SMALL, bbox=_box(theme), **place)


def _box(theme: Theme) -> dict[str, Any]:
    """Keeps lines from running through what is written."""
    return {"facecolor": theme.paper, "edgecolor": "none", "pad": 0.6}


def _legend(axes: Axes, theme: Theme, lines: Mapping[str, Mapping[str, Any]]) -> None:
    handles = [Line2D([], [], label=_plain(label), **style) for label, style in lines.items()]
    figure = axes.get_figure(root=True)
    assert figure is not None
    columns = 3 if max(map(len, lines)) <= 18 else 2
    style = {"frameon": False, "labelcolor": theme.text, "fontsize": SMALL, "ncols": min(columns, len(handles))}
    figure.legend(handles=handles, loc="outside lower left", **style)


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _plain(label: str) -> str:
    short = " ".join(label.split())
    if len(short) > MAX_LABEL_CHARS:
        # The end of a name is what distinguishes runs.
        short = f"{short[: MAX_LABEL_CHARS - 3 - END_CHARS]}...{short[-END_CHARS:]}"
    # A dollar sign would start matplotlib's mathematics, and an underscore in front would keep it out of the legend.
    return short.replace("$", r"\$").removeprefix("_")
