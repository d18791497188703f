"""Predictions: read from every shape that SWE-bench reads, append safely.

Grading them is left to `scheduler`, making them to `agent` (with a model) and `controls` (without one).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from srl_swe.errors import ConfigError, DataError
from srl_swe.files import append_json_line, repair_last_line
from srl_swe.types import Instance, Prediction

PREDICTIONS_FILE = "predictions.jsonl"


class _Row(BaseModel):
    """One prediction as files hold it; other keys are ignored, as the official harness does."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    instance_id: str = Field(min_length=1)
    model_name_or_path: str
    model_patch: str | None


def read_predictions(path: Path) -> tuple[Prediction, ...]:
    """Read a .jsonl file, or a .json file with a list or an object by instance id.

    A null patch becomes an empty one; a patch that lacks its final newline gets it.

    Raises:
        DataError: the file, a row or a field is not what the format says, or an instance has two predictions.
    """
    predictions: dict[str, Prediction] = {}
    for where, prediction in _read(path):
        earlier = predictions.setdefault(prediction.instance_id, prediction)
        if earlier != prediction:
            raise DataError(
                f"{where}: a second, different prediction for instance {prediction.instance_id!r}; keep one of them, "
                "or say how many there are of each instance with --samples"
            )
    return tuple(predictions.values())


def read_samples(path: Path, num_samples: int) -> tuple[tuple[Prediction, ...], ...]:
    """Read a file with several predictions of each instance: one tuple per sample, in the order of the rows.

    Raises:
        DataError: as `read_predictions`, or an instance has not exactly `num_samples` predictions.
    """
    if num_samples == 1:
        return (read_predictions(path),)
    samples: dict[str, list[Prediction]] = {}
    for _, prediction in _read(path):
        samples.setdefault(prediction.instance_id, []).append(prediction)
    for instance_id, found in samples.items():
        if len(found) != num_samples:
            raise DataError(
                f"{path}: instance {instance_id!r} has {len(found)} predictions, expected {num_samples} (--samples)"
            )
    return tuple(tuple(found[index] for found in samples.values()) for index in range(num_samples))


def _read(path: Path) -> Iterator[tuple[str, Prediction]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: predictions cannot be read: {error}") from error
    found = 0
    for where, row in _rows(path, text):
        yield where, _prediction(where, row)
        found += 1
    if not found:
        raise DataError(f"{path}: holds no predictions; expected at least one")


def resume_predictions(path: Path) -> tuple[Prediction, ...]:
    """Read what an earlier run of the agent appended, its unfinished last line cut off; empty when there is none."""
    repair_last_line(path)
    if not path.is_file() or path.stat().st_size == 0:
        return ()
    return read_predictions(path)


def earlier_predictions(folder: Path, instances: Sequence[Instance], model_name: str) -> tuple[Prediction, ...]:
    """Return what earlier runs of this model left in an output folder for these instances.

    Raises:
        ConfigError: the folder holds predictions of another model.
    """
    asked = {instance.instance_id for instance in instances}
    earlier = resume_predictions(folder / PREDICTIONS_FILE)
    others = {prediction.model_name_or_path for prediction in earlier} - {model_name}
    if others:
        raise ConfigError(
            f"{folder} holds predictions of {', '.join(sorted(others))}, not of {model_name}; "
            "give each model its own folder"
        )
    return tuple(prediction for prediction in earlier if prediction.instance_id in asked)


def append_prediction(path: Path, prediction: Prediction) -> None:
    """Append a prediction with SWE-bench's exact keys; it is on disk when this returns."""
    append_json_line(path, asdict(prediction))


def check_known(predictions: Sequence[Prediction], instances: Sequence[Instance]) -> None:
    """Refuse predictions for instances that were not asked for.

    Raises:
        DataError: lists up to ten of them.
    """
    known = {instance.instance_id for instance in instances}
    unknown = [prediction.instance_id for prediction in predictions if prediction.instance_id not in known]
    if unknown:
        shown = ", ".join(unknown[:10]) + (", …" if len(unknown) > 10 else "")
        raise DataError(
            f"{len(unknown)} of {len(predictions)} predictions are for instances that are not among the {len(known)} "
            f"asked for: {shown}. Give the instances that the predictions were made for, or remove these rows"
        )


def end_with_newline(patch: str) -> str:
    """Return the patch with a final newline; empty and blank patches become empty."""
    if not patch.strip():
        return ""
    return patch if patch.endswith("\n") else patch + "\n"


def _rows(path: Path, text: str) -> Iterable[tuple[str, Any]]:
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"{path}, line {number}", _json(f"{path}, line {number}", line)
        return
    content = _json(str(path), text)
    if isinstance(content, dict):
        for instance_id, row in content.items():
            if isinstance(row, dict) and row.setdefault("instance_id", instance_id) != instance_id:
                raise DataError(f"{path}, key {instance_id!r}: holds the prediction of {row['instance_id']!r}")
            yield f"{path}, key {instance_id!r}", row
    elif isinstance(content, list):
        for number, row in enumerate(content):
            yield f"{path}, row {number}", row
    else:
        raise DataError(
            f"{path}: expected a list of predictions or an object by instance id, found {type(content).__name__}"
        )


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: is not valid JSON ({error}); a .jsonl file holds one object a line") from error


def _prediction(where: str, row: Any) -> Prediction:
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object with instance_id, model_name_or_path and model_patch")
    try:
        parsed = _Row.model_validate(row)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        name = row.get("instance_id")
        raise DataError(f"{where}{f' ({name})' if isinstance(name, str) else ''}: {problems}") from error
    return Prediction(
        instance_id=parsed.instance_id,
        model_name_or_path=parsed.model_name_or_path,
        model_patch=end_with_newline(parsed.model_patch or ""),
    )
