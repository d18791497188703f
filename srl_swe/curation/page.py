"""The report's page: one HTML file that needs no network and no scripts.

Whatever stands in a set is hostile: the template escapes all text, and characters that would be invisible or turn the
text around are shown as what they are. Layout and words are in `report.html.jinja`, drawings in `plots`.
"""

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
from srl_swe.pages.texts import page_environment
from srl_swe.trajectories.datasheet import SOURCES
from srl_swe.trajectories.store import PARTS

_TEMPLATE = "report.html.jinja"


def render_page(report: SetReport) -> str:
    """Return the page. The same report gives the same page."""
    return (
        page_environment("srl_swe.curation")
        .get_template(_TEMPLATE)
        .render(
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
    )


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
