"""The plots of a report, as SVG that stands inside an HTML page.

Text stays text, and colours are the page's CSS variables, so that they follow its light and dark scheme. What a colour
says, a place, a label or a shape says too. Titles are left to the page, where they can be wrapped.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from srl_swe.curation.action_kinds import ActionKind
from srl_swe.curation.findings import history_words, percent, times
from srl_swe.curation.lengths import Distribution
from srl_swe.curation.outcomes import STATUSES, KindProfile
from srl_swe.curation.reward_floor import Floor
from srl_swe.curation.shared_prefixes import PrefixSharing
from srl_swe.errors import MissingExtraError
from srl_swe.trajectories.store import Part

WIDTH = 4.2
"""Inches, at 72 units each: text of 9 units stays readable on a phone."""
INK, MUTED, GRID, FIRST, SECOND, THIRD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", FIRST: "first", SECOND: "second", THIRD: "third"}
"""Colours that stand for CSS variables of the page until the SVG is written."""
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
}
MAX_BARS = 40


def steps_plot(step_counts: Mapping[int, int]) -> str:
    """Draw how many trajectories have how many steps."""
    width = max(1, -(-max(step_counts, default=1) // MAX_BARS))
    bars: dict[int, int] = {}
    for num_steps, count in step_counts.items():
        bars[num_steps // width] = bars.get(num_steps // width, 0) + count

    def draw(axes: Any) -> None:
        axes.grid(axis="y")
        axes.grid(visible=False, axis="x")
        axes.bar([(bar + 0.5) * width - 0.5 for bar in bars], list(bars.values()), width=0.86 * width, color=FIRST)
        axes.set_xlabel("steps of a trajectory" + (f" (bars {width} wide)" if width > 1 else ""))
        axes.set_ylabel("trajectories")

    return _svg("steps", 2.4, draw)


def kinds_plot(kinds: Mapping[ActionKind, Mapping[Part, int]]) -> str:
    """Draw what share of the step examples each kind has."""
    counts = [sum(parts.values()) for parts in kinds.values()]
    total = sum(counts)

    def draw(axes: Any) -> None:
        shares = [100 * count / total for count in counts]
        axes.barh(range(len(counts)), shares, height=0.68, color=FIRST)
        for place, (share, count) in enumerate(zip(shares, counts, strict=True)):
            _beside(axes, f"{percent(count, total)} ({count:,})", share, place)
        axes.set_xlim(0, 1.36 * max(shares, default=1))
        axes.set_xlabel("share of the step examples (%)")
        _rows(axes, [str(kind) for kind in kinds])

    return _svg("kinds", 0.7 + 0.21 * len(counts), draw)


def lengths_plot(lengths: Sequence[Distribution], unit: str) -> str:
    """Draw the quantiles of each length."""
    drawn = [each for each in lengths if each.lengths]

    def draw(axes: Any) -> None:
        for place, each in enumerate(drawn):
            low, first, median, third, high = map(each.quantile, (0.05, 0.25, 0.5, 0.75, 0.95))
            axes.plot([low, high], [place, place], color=FIRST, linewidth=1.4, solid_capstyle="butt")
            axes.plot([first, third], [place, place], color=FIRST, linewidth=7, solid_capstyle="butt")
            axes.plot([median], [place], "o", color=SECOND, markeredgecolor=INK, markeredgewidth=0.8, markersize=6.5)
            axes.plot([each.lengths[-1]], [place], "|", color=MUTED, markersize=8)
            axes.annotate(f"{median:,}", (median, place), (0, 7), textcoords="offset points", ha="center", color=INK)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.minorticks_off()
        axes.set_xlabel(f"{unit}, on a logarithmic scale")
        _rows(axes, [each.name for each in drawn])
        axes.set_ylim(len(drawn) - 0.5, -0.75)

    return _svg("lengths", 0.7 + 0.42 * len(drawn), draw)


def sharing_plot(sharing: Sequence[PrefixSharing], unit: str) -> str:
    """Draw what a step costs as rows, as trees of groups, and as trees of trajectories."""
    bars = [
        (f"{history_words(each.history)}: {name}", size / max(each.num_steps, 1), colour, ratio)
        for each in sharing
        for name, size, colour, ratio in (
            ("rows", each.rows, THIRD, ""),
            ("group trees", each.group_trees, FIRST, times(each.group_ratio)),
            ("trajectory trees", each.trajectory_trees, SECOND, times(each.trajectory_ratio)),
        )
    ]

    def draw(axes: Any) -> None:
        places = [place + 0.5 * (place // 3) for place in range(len(bars))]
        axes.barh(places, [bar[1] for bar in bars], height=0.72, color=[bar[2] for bar in bars])
        for place, (_, size, _, ratio) in zip(places, bars, strict=True):
            _beside(axes, f"{size:,.0f}" + (f" ({ratio} fewer)" if ratio else ""), size, place)
        axes.set_xlim(0, 1.42 * max((bar[1] for bar in bars), default=1))
        axes.xaxis.set_major_locator(_max_ticks(3))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel(f"mean {unit} per group")
        _rows(axes, [bar[0] for bar in bars], places)

    return _svg("sharing", 0.7 + 0.25 * len(bars), draw)


def floor_plot(floors: Sequence[Floor]) -> str:
    """Draw what blind guesses score, by kind."""
    guesses: list[tuple[str, str, str, Callable[[Floor], float | None]]] = [
        ("last action", "o", FIRST, lambda floor: floor.copy_last),
        ("most common action of the kind", "D", SECOND, lambda floor: floor.common_of_kind),
        ("most common action of all", "x", MUTED, lambda floor: floor.common),
    ]

    def draw(axes: Any) -> None:
        for label, marker, colour, value_of in guesses:
            known = [(value, place) for place, floor in enumerate(floors) if (value := value_of(floor)) is not None]
            axes.plot(
                [value for value, _ in known],
                [place for _, place in known],
                marker,
                label=label,
                color=colour,
                markeredgecolor=colour if marker == "x" else INK,
                markeredgewidth=1.4 if marker == "x" else 0.7,
                markersize=6,
                clip_on=False,
            )
        axes.set_xlim(0, 1)
        axes.set_xlabel("mean similarity to the expert's action (0 to 1)")
        _rows(axes, [f"{floor.kind or 'all steps'} ({floor.num_steps:,})" for floor in floors])
        _legend(axes)

    return _svg("floor", 1.25 + 0.22 * len(floors), draw)


def replay_plot(by_kind: Mapping[ActionKind, Mapping[Any, int]]) -> str:
    """Draw which kinds of action give in a replay what the file says."""
    colours = (FIRST, SECOND, MUTED)

    def draw(axes: Any) -> None:
        totals = [sum(counts.values()) for counts in by_kind.values()]
        lefts = [0.0] * len(totals)
        for status, colour in zip(STATUSES, colours, strict=True):
            shares = [100 * by_kind[kind][status] / total for kind, total in zip(by_kind, totals, strict=True)]
            axes.barh(
                range(len(totals)), shares, 0.68, left=lefts, color=colour, label=status, edgecolor=INK, linewidth=0.4
            )
            lefts = [left + share for left, share in zip(lefts, shares, strict=True)]
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the replayed commands (%)")
        _rows(axes, [f"{kind} ({total:,})" for kind, total in zip(by_kind, totals, strict=True)])
        _legend(axes, columns=3)

    return _svg("replay", 1.0 + 0.22 * len(by_kind), draw)


def profile_plot(by_kind: Mapping[ActionKind, KindProfile], floors: Mapping[ActionKind | None, Floor]) -> str:
    """Draw the model's similarity against the floor, by kind."""

    def draw(axes: Any) -> None:
        for place, (kind, found) in enumerate(by_kind.items()):
            floor = floors[kind].best if kind in floors else None
            if floor is not None:
                axes.plot([floor], [place], "x", color=MUTED, markersize=6, markeredgewidth=1.4, clip_on=False)
            if found.mean_similarity is not None:
                axes.plot(
                    [found.mean_similarity], [place], "o", color=FIRST, markeredgecolor=INK, markersize=6, clip_on=False
                )
        axes.plot([], [], "o", color=FIRST, markeredgecolor=INK, label="the model, where well-formed")
        axes.plot([], [], "x", color=MUTED, label="best blind guess")
        axes.set_xlim(0, 1)
        axes.set_xlabel("mean similarity to the expert's action (0 to 1)")
        _rows(axes, [f"{kind} ({found.num_steps:,})" for kind, found in by_kind.items()])
        _legend(axes)

    return _svg("profile", 1.15 + 0.22 * len(by_kind), draw)


def check_installed() -> None:
    """Raise MissingExtraError where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the plots of the report need matplotlib: pip install 'srl-swe[data]'") from error


def _svg(name: str, height: float, draw: Callable[[Any], None]) -> str:
    """Draw on one pair of axes; `name` keeps the ids of several plots on a page apart."""
    check_installed()
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(stream.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """Make matplotlib's file a part of a page: no size, fonts or style sheet of its own, ids under the plot's name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    opening, rest = svg.split(">", 1)
    svg = (
        re.sub(r' (?:width|height|xmlns:xlink|xmlns|version)="[^"]*"', "", opening)
        + ">"
        + rest.replace("xlink:href", "href")
    )
    svg = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{name}-", svg)
    # Older releases of matplotlib write one `font`, newer ones its parts.
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.strip()


def _beside(axes: Any, said: str, value: float, place: float) -> None:
    """Write at the end of a horizontal bar; where every bar says its value, lines to compare them by are in the way."""
    axes.annotate(said, (value, place), (4, 0), textcoords="offset points", va="center", color=INK)
    axes.grid(visible=False)


def _rows(axes: Any, labels: Sequence[str], places: Sequence[float] | None = None) -> None:
    """Label horizontal rows, the first one at the top."""
    places = range(len(labels)) if places is None else places
    axes.set_yticks(places, labels)
    axes.set_ylim(max(places, default=0) + 0.6, -0.6)


def _legend(axes: Any, *, columns: int = 1) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        handlelength=1.2,
        handletextpad=0.5,
        columnspacing=1.2,
    )


def _max_ticks(count: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=count)
