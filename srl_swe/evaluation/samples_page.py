"""The page of several samples: pass@k, and of each instance how many samples resolve it; made from samples.json.

Beside it lie the samples' own reports, to which it leads. No network, no scripts. Figures are made in `samples`; layout
and words are in `samples.html.jinja`.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from srl_swe import __version__
from srl_swe.evaluation.record import read_record
from srl_swe.evaluation.report_pages import PAGES_FOLDER, REPORT_FILE, page_name
from srl_swe.evaluation.samples import SamplesRecord, read_samples_record
from srl_swe.files import write_atomically
from srl_swe.pages.drawing import FIRST, INK, MUTED, THIRD, beside, rows, svg
from srl_swe.pages.texts import page_environment, page_or_none

_HEIGHT = 0.75
_ROW_HEIGHT = 0.24


def write_samples_page(output: Path, *, console: Console | None = None) -> Path | None:
    """Write the page after an evaluation; None, and a line that says why, where the packages are not installed."""
    return page_or_none(lambda: make_samples_page(output), console)


def make_samples_page(output: Path) -> Path:
    """Write report.html beside the samples' folders, at once.

    Raises:
        DataError: there is no samples.json, or a sample's folder holds no evaluation.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    template = page_environment("srl_swe.evaluation").get_template("samples.html.jinja")
    from markupsafe import Markup

    record = read_samples_record(output)
    evaluations = [read_record(output / folder) for folder in record.folders]
    page = template.render(
        name=output.resolve().name,
        record=record,
        evaluation=evaluations[0],
        num_invalid=sum(evaluation.count("invalid") for evaluation in evaluations),
        counts=_counts(record),
        plots={"pass": Markup(_pass_plot(record)), "counts": Markup(_counts_plot(record))},
        page_name=page_name,
        pages_folder=PAGES_FOLDER,
        report_file=REPORT_FILE,
        version=__version__,
    )
    path = output / REPORT_FILE
    write_atomically(path, page + "\n")
    return path


def _counts(record: SamplesRecord) -> dict[int, int]:
    """Return number of samples -> instances that just so many resolve."""
    found = [record.num_resolved(name) for name in record.instances]
    return {number: found.count(number) for number in range(record.num_samples + 1)}


def _pass_plot(record: SamplesRecord) -> str:
    ks = list(record.pass_at_k)

    def draw(axes: Any) -> None:
        for place, k in enumerate(ks):
            interval = record.intervals[k]
            if interval is not None:
                axes.plot([100 * interval[0], 100 * interval[1]], [place, place], color=MUTED, linewidth=1.6)
            rate = 100 * record.pass_at_k[k]
            axes.plot([rate], [place], "o", color=FIRST, markeredgecolor=INK, markersize=6, clip_on=False)
        axes.set_xlim(-4, 104)  # room for the marks at either end
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("resolved (%), 95 % interval over instances")
        rows(axes, [f"pass@{k}" for k in ks])

    return svg("pass", _HEIGHT + _ROW_HEIGHT * len(ks), draw)


def _counts_plot(record: SamplesRecord) -> str:
    counts = _counts(record)
    total = max(1, sum(counts.values()))

    def draw(axes: Any) -> None:
        for place, (number, count) in enumerate(counts.items()):
            share = 100 * count / total
            axes.barh([place], [share], height=0.68, color=FIRST if number else THIRD)
            beside(axes, f"{count:,} ({share:.1f} %)", share, place)
        axes.set_xlim(0, 1.36 * max((100 * count / total for count in counts.values()), default=1))
        axes.set_xlabel("share of the instances (%)")
        rows(axes, [f"{number} of {record.num_samples}" for number in counts])

    return svg("counts", _HEIGHT + _ROW_HEIGHT * len(counts), draw)
