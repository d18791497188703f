"""A patch comes into the work tree of a grading container, and what steers its tests comes back out of it.

Left out: which files steer tests (`steering_files.py`), the tests' own files (`pristine.py`).
"""

import importlib.resources
import re
from dataclasses import dataclass

from srl_swe.environments.container import Container
from srl_swe.environments.steering_files import MODULES, NAMES, PATHS, merge_pyproject, steers_tests
from srl_swe.errors import ContainerError
from srl_swe.types import Instance

REACHES_OUT = "patch reaches out of the work tree"
"""Why a patch is refused that changes .git, or links to what is not the work tree's."""

_TIMEOUT_S = 300
_EXIT_NOT_APPLIED = 3
_EXIT_REACHES_OUT = 5
_MAX_LIST_BYTES = 32 << 20
_MAX_PYPROJECT_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class AppliedPatch:
    """What became of a patch."""

    problem: str = ""
    """Why it is not in the work tree; "" = it is."""
    log: str = ""
    """What the tries to apply it said."""
    restored: tuple[str, ...] = ()
    """Paths of what steers tests and was put back or deleted; "PATH (left: …)" where the gold patch changes it too."""


def apply_patch(container: Container, instance: Instance, patch: str, folder: str) -> AppliedPatch:
    """Apply a patch by SWE-bench's chain of tries and put back what steers the tests; `folder` is for our own files.

    A file that the gold patch changes stays as the patch has it.

    Raises:
        ContainerError: the image lacks something, or the container failed.
    """
    text = patch if patch.endswith("\n") else patch + "\n"
    gold = touched_parts(instance.gold_patch)
    programs = importlib.resources.files("srl_swe") / "docker"
    container.write_files(
        {
            f"{folder}/apply-patch": (programs / "apply-patch").read_bytes(),
            f"{folder}/steering": (programs / "steering").read_bytes(),
            f"{folder}/patch.diff": _bytes_of(text),
            f"{folder}/names": _lines(NAMES),
            f"{folder}/paths": _lines(PATHS),
            f"{folder}/modules": _lines(MODULES),
            f"{folder}/exempt": _lines(tuple(f"./{path}" for path in sorted(gold))),
        }
    )
    workdir = instance.environment.workdir
    result = container.execute(["bash", f"{folder}/apply-patch", workdir, folder], timeout_s=_TIMEOUT_S)
    if result.exit_code == _EXIT_NOT_APPLIED:
        return AppliedPatch(problem="patch does not apply", log=result.output)
    if result.exit_code == _EXIT_REACHES_OUT:
        return AppliedPatch(problem=REACHES_OUT, log=result.output)
    if result.exit_code != 0:
        raise ContainerError(
            f"instance {instance.instance_id}: applying a patch in image {instance.environment.image} ended with exit"
            f" code {result.exit_code}: {result.output[-500:]}"
        )
    listed = container.read_file(f"{folder}/restored", max_bytes=_MAX_LIST_BYTES)
    restored = [path.decode(errors="replace").removeprefix("./") for path in listed.split(b"\0") if path]
    restored = [path for path in restored if not _keep_rest(container, workdir, folder, path)]
    own = touched_parts(text)
    restored += [
        f"{path} (left: the gold patch changes it too)"
        for path in sorted(gold.keys() & own.keys())
        if steers_tests(path) and gold[path] != own[path]
    ]
    return AppliedPatch(log=result.output, restored=tuple(restored))


def touched_parts(patch: str) -> dict[str, str]:
    """Return the paths of a git patch, those of renames and of empty files included, each with its hunks."""
    parts: dict[str, str] = {}
    for part in re.split(r"^(?=diff --git )", patch, flags=re.MULTILINE):
        pairs = re.findall(r"^diff --git a/(.+) b/(.+)$", part, flags=re.MULTILINE)
        sides = re.findall(r"^(?:---|\+\+\+) [ab]/([^\t\n]+)", part, flags=re.MULTILINE)
        changed = "".join(re.findall(r"^[+-](?!\+\+ |-- ).*\n", part, flags=re.MULTILINE))
        for path in {path for pair in pairs for path in pair}.union(sides):
            parts[path] = changed
    return parts


def _keep_rest(container: Container, workdir: str, folder: str, path: str) -> bool:
    """Give a pyproject.toml back what the patch did to it besides steering tests; True where that is all it did."""
    if path.rpartition("/")[2] != "pyproject.toml":
        return False
    try:
        patched = container.read_file(f"{folder}/patched/{path}", max_bytes=_MAX_PYPROJECT_BYTES).decode()
    except (FileNotFoundError, UnicodeDecodeError):
        return False
    try:
        before = container.read_file(f"{workdir}/{path}", max_bytes=_MAX_PYPROJECT_BYTES).decode()
    except FileNotFoundError:
        before = ""
    merged = merge_pyproject(before, patched)
    if merged is None:
        return False
    container.write_file(f"{workdir}/{path}", merged.encode())
    return merged == patched or merge_pyproject(patched, patched) == merged


def _lines(values: tuple[str, ...]) -> bytes:
    return "".join(f"{value}\n" for value in values).encode()


def _bytes_of(patch: str) -> bytes:
    """Return the patch's bytes; surrogate escapes stand for bytes that were not UTF-8."""
    try:
        return patch.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return patch.encode("utf-8", "replace")
