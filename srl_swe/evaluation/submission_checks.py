"""Is a submission kit what the leaderboard and sb-cli take? Read from the folder alone, as their maintainers see it.

What no program can know (whether the web was searched, who is affiliated where) is listed by `reminders`, not checked.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from srl_swe.errors import DataError, MissingExtraError
from srl_swe.evaluation.predictions import end_with_newline, read_predictions
from srl_swe.evaluation.submission import (
    BOARDS,
    CHECKLIST,
    LOGS,
    METADATA,
    PREDICTIONS,
    README,
    RESULTS,
    TO_FILL_IN,
    TRAJECTORIES,
    BoardName,
    is_named_after,
)
from srl_swe.files import file_name
from srl_swe.types import Prediction

_LOG_FILES = ("eval.sh", "patch.diff", "report.json", "run_instance.log", "test_output.txt")
_NAME = re.compile(r"20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])_[A-Za-z0-9._+-]+")
_SHOWN = 5
_FIELDS: dict[str, tuple[type, ...]] = {
    "info.name": (str,),
    "info.authors": (list, str),
    "info.report": (str,),
    "info.site": (str,),
    "tags.model": (list,),
    "tags.org": (list, str),
    "tags.os_model": (bool,),
    "tags.os_system": (bool,),
}
"""Field of metadata.yaml that a submitter fills in -> what it may be."""
_WORDS = {str: "a text", list: "a list", bool: "true or false"}


def check_kit(kit: Path, board: BoardName) -> tuple[str, ...]:
    """Return what is wrong, each with what to do; empty = it can be submitted.

    Raises:
        DataError: there is no such folder.
        MissingExtraError: PyYAML is not installed.
    """
    if not kit.is_dir():
        raise DataError(f"{kit}: no such folder; `srl-swe eval submit-kit FOLDER --out {kit}` writes it")
    return tuple(_problems(kit.resolve(), board))


def reminders(kit: Path, board: BoardName) -> tuple[str, ...]:
    """Return what remains to the submitter."""
    sb_cli = BOARDS[board].sb_cli
    place = f"evaluation/{board}/{kit.resolve().name}"
    lines = [
        f"README.md: confirm the {len(CHECKLIST)} statements of the checklist yourself",
        "Verified and Multilingual take submissions of academic and research groups with a published report only "
        "(policy of November 2025)",
        f"fork SWE-bench/experiments, copy this folder to {place}, run python -m analysis.get_results {place} there, "
        "and paste what it prints into the pull request",
    ]
    if sb_cli:
        run = f"--predictions_path {kit / PREDICTIONS} --run_id {kit.resolve().name}"
        lines.append(f"to have it judged by SWE-bench as well: sb-cli submit {sb_cli} {run}")
    return tuple(lines)


def _problems(kit: Path, board: BoardName) -> Iterator[str]:
    if not _NAME.fullmatch(kit.name):
        yield f"{kit.name}: the folder's name must be the date and a name, for example 20260131_{_slug(kit.name)}"
    yield from _metadata_problems(kit / METADATA)
    yield from _readme_problems(kit / README)
    try:
        predictions = {each.instance_id: each for each in read_predictions(kit / PREDICTIONS)}
        results = _json(kit / RESULTS)
    except DataError as error:
        yield str(error)
        return
    yield from _prediction_problems(predictions, results, board)
    yield from _log_problems(kit / LOGS, predictions, results)
    yield from _trajectory_problems(kit / TRAJECTORIES, predictions)


def _metadata_problems(path: Path) -> Iterator[str]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("reading metadata.yaml needs PyYAML: pip install 'srl-swe[eval]'") from error
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        yield f"{path.name}: cannot be read: {' '.join(str(error).split())}"
        return
    for field, kinds in _FIELDS.items():
        value = _field(content, field)
        if value in (None, "", [], TO_FILL_IN) or (isinstance(value, list) and TO_FILL_IN in value):
            yield f"{path.name}: {field} is to be filled in"
        elif not isinstance(value, kinds):
            yield f"{path.name}: {field} is {value!r}, expected {' or '.join(_WORDS[kind] for kind in kinds)}"
    for field in ("info.site", "info.report"):
        value = _field(content, field)
        if isinstance(value, str) and value not in ("", TO_FILL_IN) and not value.startswith(("https://", "http://")):
            yield f"{path.name}: {field} is {value!r}, expected an address that begins with https://"
    if _field(content, "tags.checked") is not False:
        yield f"{path.name}: tags.checked must be false; SWE-bench's maintainers set it"
    attempts = _field(content, "tags.system.attempts")
    if str(attempts) not in ("1", "2+"):
        yield f"{path.name}: tags.system.attempts is {attempts!r}, expected '1' or '2+'"


def _field(content: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def _readme_problems(path: Path) -> Iterator[str]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield f"{path.name}: cannot be read: {error}"
        return
    if TO_FILL_IN in text:
        yield f"{path.name}: says {TO_FILL_IN!r}: describe the system there, with its technical report and its authors"
    for statement in CHECKLIST:
        if not re.search(rf"\[[xX]\] *{re.escape(statement)}", text):
            yield f"{path.name}: not confirmed with [x]: {statement}"


def _prediction_problems(
    predictions: Mapping[str, Prediction], results: Mapping[str, Any], board: BoardName
) -> Iterator[str]:
    models = sorted({each.model_name_or_path for each in predictions.values()})
    if len(models) > 1:
        yield f"{PREDICTIONS}: has predictions of {len(models)} models ({', '.join(models[:_SHOWN])}), expected one"
    wanted, ids = BOARDS[board].num_instances, set(predictions) | set(_ids(results, "no_generation"))
    if len(ids) != wanted:
        yield (
            f"{PREDICTIONS}: {len(ids)} instances were asked for, {board} has {wanted}; evaluate all of "
            f"--split {BOARDS[board].split}"
        )
    if unknown := _ids(results, "no_logs"):
        yield f"{RESULTS}: {_some(unknown)} have no verdict, as the infrastructure failed: evaluate again"
    unpredicted = sorted(set(_ids(results, "no_generation")) - set(predictions))
    if unpredicted:
        yield f"{PREDICTIONS}: {_some(unpredicted)} have no prediction; they count as not resolved"


def _log_problems(logs: Path, predictions: Mapping[str, Prediction], results: Mapping[str, Any]) -> Iterator[str]:
    resolved = set(_ids(results, "resolved"))
    for instance_id, prediction in predictions.items():
        folder = logs / file_name(instance_id)
        if not prediction.model_patch:
            continue
        missing = [name for name in _LOG_FILES if not (folder / name).is_file()]
        if missing:
            yield f"{LOGS}/{folder.name}: {', '.join(missing)} missing; write the kit again"
            continue
        if end_with_newline(_text(folder / "patch.diff")) != prediction.model_patch:
            yield f"{LOGS}/{folder.name}/patch.diff: is not the patch in {PREDICTIONS}"
        try:
            says = bool(_json(folder / "report.json")[instance_id]["resolved"])
        except (DataError, KeyError, TypeError) as error:
            yield f"{LOGS}/{folder.name}/report.json: does not say whether it is resolved: {error}"
            continue
        if says != (instance_id in resolved):
            yield f"{LOGS}/{folder.name}/report.json: says resolved = {says}, {RESULTS} says the contrary"
    if strangers := sorted(resolved - {name for name, each in predictions.items() if each.model_patch}):
        yield f"{RESULTS}: {_some(strangers)} resolved without a patch in {PREDICTIONS}"


def _trajectory_problems(folder: Path, predictions: Mapping[str, Prediction]) -> Iterator[str]:
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [each for each in predictions if not any(is_named_after(found, file_name(each)) for found in names)]
    if missing:
        yield (
            f"{TRAJECTORIES}: {_some(missing)} have no reasoning trace, which the leaderboard requires of every "
            "instance; --trajectories FOLDER takes them from there, files named after their instances"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name}: cannot be read: {error}; write the kit again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path.name}: holds {type(content).__name__}, expected an object; write the kit again")
    return content


def _ids(results: Mapping[str, Any], key: str) -> list[str]:
    found = results.get(key)
    return [str(each) for each in found] if isinstance(found, list) else []


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogatepass")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} instances ({', '.join(names[:_SHOWN])}{more})"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name.split("_", 1)[-1]).strip("-") or "name"
