"""Verdicts on disk: one file per instance, patch and tests, so that nothing is graded twice.

Layout: `FOLDER/<instance id>/<key>.json` with the test log beside it as `<key>.log`. The key changes with
the patch, the tests and the environment. Deciding what to grade is left to `scheduler`.
"""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from srl_swe.files import file_name, write_atomically
from srl_swe.types import Instance, Verdict

SCHEMA_VERSION = 2

logger = logging.getLogger(__name__)
_VERDICT: TypeAdapter[Verdict] = TypeAdapter(Verdict)


def verdict_key(instance: Instance, patch: str) -> str:
    """Return 16 hexadecimal digits that stand for the patch, the tests and the environment that judge it."""
    judged_by = json.dumps(
        {"tests": asdict(instance.tests), "environment": asdict(instance.environment)}, sort_keys=True
    )
    digest = hashlib.sha256()
    for part in (patch, judged_by):
        content = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(content)}:".encode() + content)
    return digest.hexdigest()[:16]


class VerdictStore:
    """The verdicts in one folder. Safe for threads that write different instances."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, instance: Instance, patch: str) -> Path:
        """Return where the verdict of this patch is, or would be."""
        return self._folder / file_name(instance.instance_id) / f"{verdict_key(instance, patch)}.json"

    def load(self, instance: Instance, patch: str) -> Verdict | None:
        """Return the stored verdict with its log; None where there is none, or its file is damaged."""
        path = self.path(instance, patch)
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if record.pop("schema_version") != SCHEMA_VERSION:
                return None
            record["log"] = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
            verdict = _VERDICT.validate_python(record)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            logger.warning("%s is damaged and will be graded again: %s", path, error)
            return None
        return verdict if verdict.instance_id == instance.instance_id else None

    def save(self, instance: Instance, patch: str, verdict: Verdict) -> None:
        """Write log and verdict; the verdict last, so that it is there only when all of it is."""
        path = self.path(instance, patch)
        record = {"schema_version": SCHEMA_VERSION, **asdict(verdict)}
        log = record.pop("log")
        write_atomically(path.with_suffix(".log"), log.encode("utf-8", "replace").decode())
        write_atomically(path, json.dumps(record, indent=1) + "\n")
