"""The page of compared methods: one HTML file beside comparison.json, without network or scripts.

Figures are made in `methods`; layout and words are in `methods.html.jinja`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from srl_swe import __version__
from srl_swe.evaluation.methods import CONTROL, MethodComparison
from srl_swe.files import write_atomically
from srl_swe.pages.drawing import FIRST, INK, MUTED, rows, svg
from srl_swe.pages.texts import page_environment, page_or_none

PAGE_FILE = "comparison.html"
_DRAWN = {"similarity": "similarity", "completion_tokens": "completion tokens per action"}


def write_methods_page(
    folder: Path, record: Mapping[str, object], found: MethodComparison, *, console: Console
) -> Path | None:
    """Write the page; None, and a line that says why, where the packages are not installed."""
    return page_or_none(lambda: _make_page(folder, record, found), console)


def _make_page(folder: Path, record: Mapping[str, object], found: MethodComparison) -> Path:
    template = page_environment("srl_swe.evaluation").get_template("methods.html.jinja")
    from markupsafe import Markup

    plots = {name: Markup(_plot(name, axis, found)) for name, axis in _DRAWN.items()}
    page = template.render(record=record, found=found, plots=plots, control=CONTROL, version=__version__)
    write_atomically(folder / PAGE_FILE, page + "\n")
    return folder / PAGE_FILE


def _plot(name: str, axis: str, found: MethodComparison) -> str:
    """Draw each method's mean with its interval over steps, and the mean of each seed as a small mark."""
    methods = (found.start, *found.methods)

    def draw(axes: Any) -> None:
        for place, method in enumerate(methods):
            estimate = method.estimates[name]
            if estimate.low is not None:
                axes.plot([estimate.low, estimate.high], [place, place], color=MUTED, linewidth=1.6)
            axes.plot(method.by_seed[name], [place] * len(method.by_seed[name]), "|", color=INK, markersize=8)
            axes.plot([estimate.mean], [place], "o", color=FIRST, markeredgecolor=INK, markersize=6)
        if name == "similarity":
            axes.axvline(found.copy_last_similarity, color=MUTED, linestyle=":", linewidth=1.2)
        axes.set_xlabel(axis)
        rows(axes, [method.method for method in methods])

    return svg(f"methods-{name}", 0.75 + 0.26 * len(methods), draw)
