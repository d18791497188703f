"""The report's page: one HTML file that needs no network and no scripts.

Whatever stands in a set is hostile: the template escapes all text, and characters that would be invisible or turn the
text around are shown as what they are. Layout and words are in `report.html.jinja`, drawings in `plots`.
"""

import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from srl_swe import __version__
from srl_swe.curation import findings, plots
from srl_swe.curation.action_kinds import MEANINGS
from srl_swe.curation.drop_explanations import concerns, explain
from srl_swe.curation.lengths import QUANTILES
from srl_swe.curation.outcomes import STATUSES
from srl_swe.curation.set_report import SetReport
from srl_swe.errors import MissingExtraError
from srl_swe.prompts import cut_middle
from srl_swe.trajectories.datasheet import SOURCES
from srl_swe.trajectories.store import PARTS

MAX_SHOWN_CHARS = 12_000
"""Longer texts lose their middle on the page."""
_TEMPLATE = "report.html.jinja"
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def check_installed() -> None:
    """Raise MissingExtraError where a package that the page needs is not installed."""
    plots.check_installed()
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the report's page needs jinja2: pip install 'srl-swe[data]'") from error


def render_page(report: SetReport) -> str:
    """Return the page. The same report gives the same page."""
    check_installed()
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"visible": visible, "number": _number, "score": _score}
    template = importlib.resources.files("srl_swe.curation").joinpath(_TEMPLATE).read_text("utf-8")
    return environment.from_string(template).render(
        report=report,
        survey=report.survey,
        version=__version__,
        parts=PARTS,
        statuses=STATUSES,
        quantiles=QUANTILES,
        meanings=MEANINGS,
        explain=explain,
        concerns=concerns,
        published=SOURCES,
        find=findings,
        percent=findings.percent,
        times=findings.times,
        floors={floor.kind: floor for floor in report.floors},
        drops=_drops(report.manifest),
        settings=_settings(report.manifest),
        limits=asdict(report.options.limits),
        plots=_plots(report),
    )


def visible(text: object) -> str:
    """Show what would be invisible or would turn text around, and cut what is very long.

    >>> visible("a\\x1b[1m\\u202eb")
    'a\\u241b[1m\\\\u202eb'
    """
    return _INVISIBLE.sub(_named, cut_middle(str(text), MAX_SHOWN_CHARS))


def _named(found: re.Match[str]) -> str:
    code = ord(found.group())
    # Control characters have pictures of their names.
    return chr(0x2400 + code) if code < 0x20 else f"\\u{code:04x}"


def _plots(report: SetReport) -> dict[str, Any]:
    """Return the drawings as markup that is not escaped again: no text of the set gets into them."""
    from markupsafe import Markup

    survey = report.survey
    drawn = {
        "steps": plots.steps_plot(survey.step_counts),
        "kinds": plots.kinds_plot(survey.kinds),
        "lengths": plots.lengths_plot(report.lengths, report.measure.unit),
        "sharing": plots.sharing_plot(report.sharing, report.measure.unit),
        "floor": plots.floor_plot(report.floors),
    }
    if report.replay:
        drawn["replay"] = plots.replay_plot(report.replay.by_kind)
    if report.profile:
        drawn["profile"] = plots.profile_plot(report.profile.by_kind, {floor.kind: floor for floor in report.floors})
    return {name: Markup(svg) for name, svg in drawn.items()}


def _drops(manifest: Mapping[str, object]) -> list[tuple[str, str, int]]:
    """Return source, reason and count, as the manifest has them."""
    found = manifest.get("drops")
    sources = found.items() if isinstance(found, Mapping) else ()
    return [
        (str(source), str(reason), count)
        for source, reasons in sources
        if isinstance(reasons, Mapping)
        for reason, count in reasons.items()
        if isinstance(count, int)
    ]


def _settings(manifest: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return how the set was compiled, as names and values."""
    paths = manifest.get("paths")
    options = manifest.get("filter")
    return [
        *(("input", str(path)) for path in (paths if isinstance(paths, list) else ())),
        ("seed of the split", str(manifest.get("seed", "not told"))),
        *((str(name), _plain(value)) for name, value in (options.items() if isinstance(options, Mapping) else ())),
    ]


def _plain(value: object) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _score(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.2f}"
