"""Verdicts that lie beside trajectories: SWE-bench's `report.json`, as `swebench.harness.run_evaluation` writes it."""

import json
from functools import lru_cache
from pathlib import Path

from srl_swe.errors import DataError

_REPORT_LEVELS = 3
"""A report lies beside the file, beside its folder, or one above."""


def resolved_by_report(path: Path, instance_id: str) -> bool | None:
    """Look the verdict up in the nearest report; one that knows the instance without resolving it says False.

    Args:
        path: The trajectory's file.
        instance_id: Whose verdict it is.

    Returns:
        None where no report lies near the file, or the nearest one does not judge the instance.

    Raises:
        DataError: a `report.json` is there and cannot be read.
    """
    for folder in list(path.resolve().parents)[:_REPORT_LEVELS]:
        file = folder / "report.json"
        try:
            state = file.stat()
        except OSError:
            continue
        report = _read_report(file, (state.st_mtime_ns, state.st_size, state.st_ino))
        if report is None:
            continue
        resolved, errored, submitted = report
        if instance_id in resolved:
            return True
        return None if instance_id in errored or (submitted and instance_id not in submitted) else False
    return None


@lru_cache(maxsize=256)
def _read_report(
    path: Path, state: tuple[int, int, int]
) -> tuple[frozenset[str], frozenset[str], frozenset[str]] | None:
    """Return the resolved, errored and submitted ids of a SWE-bench report, None of another file of that name.

    `state` tells versions of the file apart: an evaluation in the same process writes it anew.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the report beside the trajectories cannot be read: {error}") from None
    if not isinstance(report, dict) or not isinstance(report.get("resolved_ids"), list):
        return None
    ids = [
        frozenset(str(item) for item in report.get(f"{name}_ids") or ()) for name in ("resolved", "error", "submitted")
    ]
    return ids[0], ids[1], ids[2]
