"""The report of an evaluation: report.html, and one page per instance beside it in pages/.

No network, no scripts. Whatever a model or a test wrote is hostile: the templates escape all text and show what would
be invisible; every text and every page is bounded. Figures are made in `figures`, drawings in `report_plots`.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from srl_swe import __version__
from srl_swe.evaluation import report_plots as plots
from srl_swe.evaluation.figures import STAGES, EpisodeRecord, Figures, make_figures, read_episode, stage_of
from srl_swe.evaluation.record import EvaluationRecord, InstanceOutcome, read_record
from srl_swe.evaluation.results import read_stored
from srl_swe.evaluation.stability import how_often
from srl_swe.files import file_name, write_atomically
from srl_swe.pages.texts import page_environment, page_or_none
from srl_swe.types import Verdict

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT_FILE = "report.html"
PAGES_FOLDER = "pages"
MAX_LOG_CHARS = 60_000
MAX_MESSAGES = 200
"""Longer episodes lose their middle on the page; the trajectory file has all of it."""
MAX_TESTS = 500

logger = logging.getLogger(__name__)


def write_pages(folder: Path, *, console: Console | None = None) -> Path | None:
    """Write the pages after an evaluation; None, and a line that says why, where the packages are not installed."""
    return page_or_none(lambda: make_pages(folder), console)


def make_pages(folder: Path) -> Path:
    """Write report.html and the instances' pages, each at once; pages that would not change are left alone.

    Raises:
        DataError: the folder holds no evaluation.
        MissingExtraError: jinja2, matplotlib or scipy is not installed.
    """
    environment = page_environment("srl_swe.evaluation")
    record = read_record(folder)
    played = ((instance.instance_id, read_episode(folder, instance.instance_id)) for instance in record.instances)
    episodes = {name: episode for name, episode in played if episode is not None}
    for instance in record.instances:
        page = _instance_page(environment, folder, record, instance, episodes.get(instance.instance_id))
        _write_changed(folder / PAGES_FOLDER / page_name(instance.instance_id), page)
    path = folder / REPORT_FILE
    _write_changed(path, _report_page(environment, folder, record, make_figures(record, episodes), episodes))
    return path


def page_name(instance_id: str) -> str:
    """Return the name of an instance's page: harmless in a file system and in a link."""
    return f"{file_name(instance_id)}.html"


def _report_page(
    environment: "Environment",
    folder: Path,
    record: EvaluationRecord,
    figures: Figures,
    episodes: Mapping[str, EpisodeRecord],
) -> str:
    return environment.get_template("evaluation.html.jinja").render(
        name=folder.resolve().name,
        record=record,
        figures=figures,
        stages=STAGES,
        stage_of=stage_of,
        episodes=episodes,
        page_name=page_name,
        how_often=how_often,
        pages_folder=PAGES_FOLDER,
        max_rows=plots.MAX_ROWS,
        plots=_plots(figures),
        version=__version__,
    )


def _plots(figures: Figures) -> dict[str, Any]:
    """Return the drawings as markup that is not escaped again: `svg` escapes the text that it draws."""
    from markupsafe import Markup

    drawn = {"repos": plots.rates_plot("repos", figures.repos), "stages": plots.stages_plot(figures.stages)}
    if figures.difficulties:
        drawn["difficulties"] = plots.rates_plot("difficulties", figures.difficulties)
    if figures.thought_chars:
        drawn["thoughts"] = plots.thoughts_plot(figures.thought_chars)
    return {name: Markup(svg) for name, svg in drawn.items()}


def _instance_page(
    environment: "Environment",
    folder: Path,
    record: EvaluationRecord,
    instance: InstanceOutcome,
    episode: EpisodeRecord | None,
) -> str:
    verdict, patch, problem = _stored(folder, instance)
    messages = episode.messages if episode else ()
    return environment.get_template("instance.html.jinja").render(
        record=record,
        instance=instance,
        stage=stage_of(instance),
        stages=STAGES,
        episode=episode,
        messages=_bounded(messages, MAX_MESSAGES),
        num_messages=len(messages),
        verdict=verdict,
        patch=patch,
        problem=problem,
        tests=_tests(verdict),
        num_tests=len(verdict.test_status) if verdict else 0,
        max_log_chars=MAX_LOG_CHARS,
        report_file=REPORT_FILE,
    )


def _stored(folder: Path, instance: InstanceOutcome) -> tuple[Verdict | None, str, str]:
    """Return verdict, patch, and why there is none although the record names one."""
    if instance.verdict is None:
        return None, "", ""
    try:
        return *read_stored(folder / instance.verdict), ""
    except (OSError, ValueError) as error:
        logger.warning("%s: its stored verdict cannot be shown: %s", instance.instance_id, error)
        return None, "", f"The stored verdict cannot be read: {type(error).__name__}"


def _bounded(messages: Sequence[Mapping[str, Any]], max_messages: int) -> list[Mapping[str, Any] | None]:
    """Return the messages, or their beginning and end with None between."""
    if len(messages) <= max_messages:
        return list(messages)
    half = max_messages // 2
    return [*messages[:half], None, *messages[-half:]]


def _tests(verdict: Verdict | None) -> list[tuple[str, str]]:
    """Return tests and their outcomes, those that did not pass first."""
    outcomes = verdict.test_status.items() if verdict else ()
    found = sorted((status.startswith(("PASS", "XFAIL")), name, status) for name, status in outcomes)
    return [(name, status) for _, name, status in found[:MAX_TESTS]]


def _write_changed(path: Path, text: str) -> None:
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (OSError, UnicodeDecodeError):
        pass
    write_atomically(path, text)
