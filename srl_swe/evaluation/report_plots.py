"""The plots of an evaluation's report. How they look is `srl_swe.pages.drawing`'s, their titles are the page's."""

from collections.abc import Mapping, Sequence
from typing import Any

from srl_swe.evaluation.figures import GroupRate
from srl_swe.pages.drawing import FIRST, INK, MUTED, SECOND, THIRD, beside, rows, svg

MAX_ROWS = 20
_MAX_BARS = 24


def rates_plot(name: str, groups: Sequence[GroupRate]) -> str:
    """Draw the resolve rate of each group with its interval; the largest groups where there are many."""
    drawn = groups[:MAX_ROWS]

    def draw(axes: Any) -> None:
        for place, group in enumerate(drawn):
            axes.plot([100 * group.low, 100 * group.high], [place, place], color=MUTED, linewidth=1.6)
            axes.plot([100 * group.rate], [place], "o", color=FIRST, markeredgecolor=INK, markersize=6, clip_on=False)
        axes.set_xlim(-4, 104)  # room for the marks at either end
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("resolved (%), 95 % interval")
        rows(axes, [f"{_short(group.name)} ({group.num_instances:,})" for group in drawn])

    return svg(name, 0.75 + 0.24 * len(drawn), draw)


def stages_plot(stages: Mapping[str, int]) -> str:
    """Draw how many instances came how far."""
    total = max(1, sum(stages.values()))

    def draw(axes: Any) -> None:
        colours = {"resolved": FIRST, "invalid": SECOND}
        for place, (stage, count) in enumerate(stages.items()):
            share = 100 * count / total
            axes.barh([place], [share], height=0.68, color=colours.get(stage, THIRD))
            beside(axes, f"{count:,} ({share:.1f} %)", share, place)
        axes.set_xlim(0, 1.36 * max((100 * count / total for count in stages.values()), default=1))
        axes.set_xlabel("share of the instances asked for (%)")
        rows(axes, list(stages))

    return svg("stages", 0.7 + 0.24 * len(stages), draw)


def thoughts_plot(lengths: Sequence[int]) -> str:
    """Draw how many thoughts are how long; the longest 2 % are counted in the last bar."""
    ordered = sorted(lengths)
    edge = max(1, ordered[int(0.98 * (len(ordered) - 1))])
    width = max(1, -(-edge // _MAX_BARS))
    bars: dict[int, int] = {}
    for length in ordered:
        bar = min(length, edge) // width
        bars[bar] = bars.get(bar, 0) + 1

    def draw(axes: Any) -> None:
        axes.grid(axis="y")
        axes.grid(visible=False, axis="x")
        axes.bar([(bar + 0.5) * width for bar in bars], list(bars.values()), width=0.86 * width, color=FIRST)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"characters of a thought (bars {width:,} wide)")
        axes.set_ylabel("steps")

    return svg("thoughts", 2.2, draw)


def _short(name: str) -> str:
    return name if len(name) <= 32 else name[:31] + "\N{HORIZONTAL ELLIPSIS}"
