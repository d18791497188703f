"""Verdicts on disk, found again by their content, so that nothing is graded twice.

Layout: `FOLDER/<instance id>/<key>.json` with the test log beside it as `<key>.log` and the patch as `<key>.patch`;
further gradings of the same patch are `<key>.2.json` and so on.
The key is made of what decides a verdict: the patch, the row that judges it, its script, and the grader's version. The
image's digest stands in the record: an image that has changed since makes the verdict void, one that is not here any
more does not. Deciding what to grade is left to `scheduler`.
"""

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from srl_swe.files import file_name, write_atomically
from srl_swe.types import Instance, Verdict

SCHEMA_VERSION = 2
GRADER_VERSION = 3
"""Raised when `srl_swe.environments.grading` judges differently than before: what is stored is then graded again."""

logger = logging.getLogger(__name__)
_VERDICT: TypeAdapter[Verdict] = TypeAdapter(Verdict)


@cache
def harness_version(*, skip_reinstall: bool = False) -> str:
    """Return what judges: our grader's version and swebench's, whose parsers and rules it uses; and how it was asked
    to."""
    try:
        rules = importlib.metadata.version("swebench")
    except importlib.metadata.PackageNotFoundError:
        rules = "none"
    return f"grader {GRADER_VERSION}, swebench {rules}{', without reinstalling' if skip_reinstall else ''}"


def row_hash(instance: Instance) -> str:
    """Return 16 hexadecimal digits of all that a row says about judging; the problem statement does not count."""
    judging = {
        "instance_id": instance.instance_id,
        "base_commit": instance.base_commit,
        "tests": asdict(instance.tests),
        "environment": asdict(instance.environment),
        "gold_patch": instance.gold_patch,
    }
    return _digest(json.dumps(judging, sort_keys=True))


def verdict_key(instance: Instance, patch: str) -> str:
    """Return 16 hexadecimal digits that stand for the patch and everything but the image that judges it."""
    return _digest(patch, row_hash(instance), instance.tests.script, harness_version())


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(content)}:".encode() + content)
    return digest.hexdigest()[:16]


class VerdictStore:
    """The verdicts in one folder. Safe for threads that write different instances."""

    def __init__(
        self,
        folder: Path,
        *,
        number: int = 1,
        image_digest: Callable[[Instance], str | None] = lambda instance: None,
    ) -> None:
        """`number` counts the gradings of the same patch from 1, each of which has a verdict of its own.

        `image_digest` says what an instance's image is now; None where it is not here or not known.
        """
        self._folder = folder
        self._ending = ".json" if number == 1 else f".{number}.json"
        self._image_digest = image_digest

    def path(self, instance: Instance, patch: str) -> Path:
        """Return where the verdict of this patch is, or would be."""
        return self._folder / file_name(instance.instance_id) / f"{verdict_key(instance, patch)}{self._ending}"

    def load(self, instance: Instance, patch: str) -> Verdict | None:
        """Return the stored verdict with its log; None where there is none that still holds, or its file is damaged."""
        path = self.path(instance, patch)
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if record.pop("schema_version") != SCHEMA_VERSION:
                return None
            image = record.pop("judged_by")["image"]
            record["log"] = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
            verdict = _VERDICT.validate_python(record)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            logger.warning("%s is damaged and will be graded again: %s", path, error)
            return None
        now = self._image_digest(instance) if image else None
        if now not in (None, image):
            logger.info("%s: its image has changed since it was graded: grading it again", instance.instance_id)
            return None
        return verdict if verdict.instance_id == instance.instance_id else None

    def save(self, instance: Instance, patch: str, verdict: Verdict) -> None:
        """Write patch, log and verdict; the verdict last, so that it is there only when all of it is."""
        path = self.path(instance, patch)
        judged_by = {
            "row": row_hash(instance),
            "image": self._image_digest(instance) if patch else None,
            "patch": _digest(patch),
            "script": _digest(instance.tests.script),
            "harness": harness_version(skip_reinstall=instance.tests.skip_reinstall),
        }
        record = {"schema_version": SCHEMA_VERSION, "judged_by": judged_by, **asdict(verdict)}
        log = record.pop("log")
        write_atomically(path.with_suffix(".patch"), patch)
        write_atomically(path.with_suffix(".log"), log.encode("utf-8", "replace").decode())
        write_atomically(path, json.dumps(record, indent=1) + "\n")


def read_stored(path: Path) -> tuple[Verdict, str]:
    """Return the verdict in a file of a store, with its log, and the patch it judges.

    Raises:
        OSError, ValueError: the files are missing or damaged.
    """
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    record.pop("schema_version", None)
    record.pop("judged_by", None)
    record["log"] = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    patch = path.with_suffix(".patch").read_text(encoding="utf-8", errors="surrogatepass")
    return _VERDICT.validate_python(record), patch
