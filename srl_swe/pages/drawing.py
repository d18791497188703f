"""Plots as SVG that stands inside an HTML page.

Text stays text, and colours are the page's CSS variables, so that they follow its light and dark scheme. What a colour
says, a place, a label or a shape says too. Titles are left to the page, where they can be wrapped.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from srl_swe.errors import MissingExtraError

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


def check_installed() -> None:
    """Raise MissingExtraError where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("plots need matplotlib: pip install 'srl-swe[data]'") from error


def svg(name: str, height: float, draw: Callable[[Any], None]) -> str:
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


def beside(axes: Any, said: str, value: float, place: float) -> None:
    """Write at the end of a horizontal bar; where every bar says its value, lines to compare them by are in the way."""
    axes.annotate(said, (value, place), (4, 0), textcoords="offset points", va="center", color=INK)
    axes.grid(visible=False)


def rows(axes: Any, labels: Sequence[str], places: Sequence[float] | None = None) -> None:
    """Label horizontal rows, the first one at the top."""
    places = range(len(labels)) if places is None else places
    axes.set_yticks(places, labels)
    axes.set_ylim(max(places, default=0) + 0.6, -0.6)


def legend(axes: Any, *, columns: int = 1) -> None:
    """Put the legend above the axes."""
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


def max_ticks(count: int) -> Any:
    """Return a locator of at most so many ticks."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=count)
