"""The plots of a report on a set. How they look is `srl_swe.pages.drawing`'s, their titles are the page's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from srl_swe.curation.action_kinds import ActionKind
from srl_swe.curation.findings import history_words, percent, times
from srl_swe.curation.lengths import Distribution
from srl_swe.curation.outcomes import STATUSES, KindProfile
from srl_swe.curation.reward_floor import Floor
from srl_swe.curation.shared_prefixes import PrefixSharing
from srl_swe.pages.drawing import FIRST, INK, MUTED, SECOND, THIRD, beside, legend, max_ticks, rows, svg
from srl_swe.trajectories.store import Part

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

    return svg("steps", 2.4, draw)


def kinds_plot(kinds: Mapping[ActionKind, Mapping[Part, int]]) -> str:
    """Draw what share of the step examples each kind has."""
    counts = [sum(parts.values()) for parts in kinds.values()]
    total = sum(counts)

    def draw(axes: Any) -> None:
        shares = [100 * count / total for count in counts]
        axes.barh(range(len(counts)), shares, height=0.68, color=FIRST)
        for place, (share, count) in enumerate(zip(shares, counts, strict=True)):
            beside(axes, f"{percent(count, total)} ({count:,})", share, place)
        axes.set_xlim(0, 1.36 * max(shares, default=1))
        axes.set_xlabel("share of the step examples (%)")
        rows(axes, [str(kind) for kind in kinds])

    return svg("kinds", 0.7 + 0.21 * len(counts), draw)


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
        rows(axes, [each.name for each in drawn])
        axes.set_ylim(len(drawn) - 0.5, -0.75)

    return svg("lengths", 0.7 + 0.42 * len(drawn), draw)


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
            beside(axes, f"{size:,.0f}" + (f" ({ratio} fewer)" if ratio else ""), size, place)
        axes.set_xlim(0, 1.42 * max((bar[1] for bar in bars), default=1))
        axes.xaxis.set_major_locator(max_ticks(3))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel(f"mean {unit} per group")
        rows(axes, [bar[0] for bar in bars], places)

    return svg("sharing", 0.7 + 0.25 * len(bars), draw)


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
        rows(axes, [f"{floor.kind or 'all steps'} ({floor.num_steps:,})" for floor in floors])
        legend(axes)

    return svg("floor", 1.25 + 0.22 * len(floors), draw)


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
        rows(axes, [f"{kind} ({total:,})" for kind, total in zip(by_kind, totals, strict=True)])
        legend(axes, columns=3)

    return svg("replay", 1.0 + 0.22 * len(by_kind), draw)


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
        rows(axes, [f"{kind} ({found.num_steps:,})" for kind, found in by_kind.items()])
        legend(axes)

    return svg("profile", 1.15 + 0.22 * len(by_kind), draw)
