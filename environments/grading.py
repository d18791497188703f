"""A patch is judged: applied in a fresh container, tested there, and read by SWE-bench's own parsers and rules.

What goes wrong outside the patch (engine, image, container) gives the verdict "invalid", never "unresolved". Leaves
out the rules themselves (`official_rules.py`), parallelism and storage (`srl_swe.evaluation`). Binary assets of
SWE-bench Multimodal rows are not staged.

What protects the tests: the paths of `InstanceTests.restore_paths` come back from the pristine package image, and
files that steer a test run (`PROTECTED_NAMES`) are put back to their state before the patch, added ones deleted,
unless the gold patch touches them too. The code under test still runs in the process that reports.
"""

import importlib.resources
import logging
import posixpath
import re
import threading
import time
from collections import OrderedDict

from tenacity import RetryCallState, Retrying, retry_if_exception_type, retry_if_not_exception_type, stop_after_attempt

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.images import ensure_image
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.official_rules import END_MARKER, START_MARKER, judge_log, require_rules
from srl_swe.errors import ContainerError, ImageError
from srl_swe.types import CommandResult, Instance, Verdict

PROTECTED_NAMES = (
    "conftest.py",
    "pytest.ini",
    ".pytest.ini",
    "pytest.toml",
    ".pytest.toml",
    "tox.ini",
    "setup.cfg",
    "pyproject.toml",
    "sitecustomize.py",
    "usercustomize.py",
)
"""Files by which a patch could rewrite the outcome of tests without touching the code."""

_FOLDER = "/srl_swe_grading"
_MAX_LOG_BYTES = 32 << 20
_APPLY_TIMEOUT_S = 300
_NOT_APPLIED = 3
_MAX_PRISTINE_BYTES = 256 << 20

_log = logging.getLogger(__name__)


class _TestsEndedError(ContainerError):
    """The tests did not come to their end; the patch's doing only if it happens again in a new container."""

    def __init__(self, reason: str, log: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.log = log


def grade(engine: Engine, instance: Instance, patch: str, *, limits: ContainerLimits | None = None) -> Verdict:
    """Judge one patch in a fresh container; the default limits have no network.

    A failure of the infrastructure is tried once more in a new container. Without the start marker in the log the
    script never came to the tests, and a script that ended well without the end marker has lost its log: both are
    such failures. Tests that twice go over the memory limit, or twice end the script between the markers, are
    unresolved.

    Raises:
        MissingExtraError: swebench is not installed.
        DataError: the instance names a parser or a rule that swebench does not have.
    """
    started = time.monotonic()
    if not patch.strip():
        return Verdict(instance_id=instance.instance_id, status="unresolved", reason="empty patch")
    require_rules(instance)
    retrying = Retrying(
        stop=stop_after_attempt(2),
        retry=retry_if_exception_type(ContainerError) & retry_if_not_exception_type(ImageError),
        before_sleep=_warn,
        reraise=True,
    )
    try:
        return retrying(_attempt, engine, instance, patch, limits or ContainerLimits(), started)
    except _TestsEndedError as error:
        return _verdict(instance, error.reason, error.log, started)
    except ContainerError as error:
        reason = f"{type(error).__name__}: {error}"
        return Verdict(
            instance_id=instance.instance_id,
            status="invalid",
            reason=reason,
            duration_s=time.monotonic() - started,
        )


def _warn(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    _log.warning("grading %s is tried once more: %s", state.args[1].instance_id, error)


def _verdict(instance: Instance, reason: str, log: str, started: float) -> Verdict:
    return Verdict(
        instance_id=instance.instance_id,
        status="unresolved",
        reason=reason,
        log=log,
        duration_s=time.monotonic() - started,
    )


def _attempt(engine: Engine, instance: Instance, patch: str, limits: ContainerLimits, started: float) -> Verdict:
    environment, tests = instance.environment, instance.tests
    image = ensure_image(engine, environment)
    pristine = _pristine_paths(engine, instance)
    hint = f"grade-{instance.instance_id}"
    with Container.start(engine, image, workdir=environment.workdir, limits=limits, name_hint=hint) as container:
        applied, apply_log = _apply(container, instance, patch)
        if not applied:
            return _verdict(instance, "patch does not apply", apply_log, started)
        _restore(container, environment.workdir, pristine)
        container.write_file(f"{_FOLDER}/eval.sh", tests.script.encode())
        result = _run_tests(container, tests.timeout_s)
        out_of_memory = _memory_kills(container) > 0
    log = result.output
    judgement = judge_log(instance, log)
    if judgement.resolved and not result.timed_out:
        return Verdict(
            instance_id=instance.instance_id,
            status="resolved",
            test_status=judgement.test_status,
            log=log,
            duration_s=time.monotonic() - started,
        )
    if out_of_memory:
        raise _TestsEndedError("out of memory", log)
    if not result.timed_out:
        for marker in (START_MARKER, END_MARKER):
            if marker not in log and (marker == START_MARKER or result.exit_code == 0):
                raise ContainerError(
                    f"instance {instance.instance_id}: its evaluation script ended with exit code {result.exit_code}"
                    f" and without the marker {marker!r}; its last words: {log[-500:]!r}"
                )
        if END_MARKER not in log:
            raise _TestsEndedError(f"tests ended the evaluation script, exit code {result.exit_code}", log)
    return Verdict(
        instance_id=instance.instance_id,
        status="unresolved",
        reason="timeout" if result.timed_out else "tests",
        test_status=judgement.test_status,
        log=log,
        duration_s=time.monotonic() - started,
    )


def _run_tests(container: Container, timeout_s: float) -> CommandResult:
    try:
        return container.execute(["bash", f"{_FOLDER}/eval.sh"], timeout_s=timeout_s, max_output_bytes=_MAX_LOG_BYTES)
    except ContainerError as error:
        state = container.engine.state(container.name)
        if state.out_of_memory and not state.running:
            raise _TestsEndedError("out of memory", "") from error
        raise


def _apply(container: Container, instance: Instance, patch: str) -> tuple[bool, str]:
    """Apply the patch by SWE-bench's chain of tries; return whether it applied, and what the tries said."""
    text = patch if patch.endswith("\n") else patch + "\n"
    program = (importlib.resources.files("srl_swe") / "docker" / "apply-patch").read_bytes()
    exempt = "".join(f"./{path}\n" for path in sorted(_touched_paths(instance.gold_patch)))
    container.write_files(
        {
            f"{_FOLDER}/apply-patch": program,
            f"{_FOLDER}/patch.diff": _bytes_of(text),
            f"{_FOLDER}/names": "".join(f"{name}\n" for name in PROTECTED_NAMES).encode(),
            f"{_FOLDER}/exempt": exempt.encode(),
        }
    )
    result = container.execute(
        ["bash", f"{_FOLDER}/apply-patch", instance.environment.workdir, _FOLDER], timeout_s=_APPLY_TIMEOUT_S
    )
    if result.exit_code == 0:
        return True, result.output
    if result.exit_code == _NOT_APPLIED:
        return False, result.output
    raise ContainerError(
        f"instance {instance.instance_id}: applying a patch in image {instance.environment.image} ended with exit code"
        f" {result.exit_code}: {result.output[-500:]}"
    )


def _bytes_of(patch: str) -> bytes:
    """Return the patch's bytes; surrogate escapes stand for bytes that were not UTF-8."""
    try:
        return patch.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return patch.encode("utf-8", "replace")


def _touched_paths(patch: str) -> set[str]:
    """Return the paths of a git patch, those of renames and of empty files included."""
    pairs = re.findall(r"^diff --git a/(.+) b/(.+)$", patch, flags=re.MULTILINE)
    sides = re.findall(r"^(?:---|\+\+\+) [ab]/([^\t\n]+)", patch, flags=re.MULTILINE)
    return {path for pair in pairs for path in pair}.union(sides)


def _restore(container: Container, workdir: str, pristine: dict[str, bytes | None]) -> None:
    """Replace each path of the work tree by its pristine tar; one that is not in the pristine tree is removed."""
    if not pristine:
        return
    paths = [posixpath.join(workdir, path) for path in pristine]
    parents = [posixpath.dirname(path) for path in paths]
    script = 'rm -rf -- "$@" && while [ $# -gt 0 ]; do mkdir -p -- "${1%/*}" || exit 1; shift; done'
    result = container.execute(["bash", "-c", script, "restore", *paths])
    if result.exit_code != 0:
        raise ContainerError(f"tests could not be put back in {container.name}: {result.output[-500:]}")
    for parent, tar in zip(parents, pristine.values(), strict=True):
        if tar is not None:
            container.put_archive(parent, tar)


def _memory_kills(container: Container) -> int:
    """Return how many processes the kernel has ended for memory in this container (cgroup v1 or v2)."""
    command = "cat /sys/fs/cgroup/memory/memory.oom_control /sys/fs/cgroup/memory.events 2>/dev/null"
    result = container.execute(["/bin/sh", "-c", command])
    return sum(int(count) for count in re.findall(r"^oom_kill (\d+)$", result.output, flags=re.MULTILINE))


class _PristineCache:
    """Tars of pristine tests by image and path, bounded by size; the ones used last stay."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tars: OrderedDict[tuple[str, str], bytes | None] = OrderedDict()
        self._lock = threading.Lock()

    def paths(self, engine: Engine, image: str, workdir: str, wanted: tuple[str, ...]) -> dict[str, bytes | None]:
        with self._lock:
            found = {path: self._tars[image, path] for path in wanted if (image, path) in self._tars}
            for path in found:
                self._tars.move_to_end((image, path))
        missing = [path for path in wanted if path not in found]
        if missing:
            with Container.start(engine, image, name_hint="pristine") as container:
                for path in missing:
                    try:
                        found[path] = container.get_archive(posixpath.join(workdir, path))
                    except FileNotFoundError:
                        found[path] = None
            self._keep(image, {path: found[path] for path in missing})
        return {path: found[path] for path in wanted}

    def _keep(self, image: str, tars: dict[str, bytes | None]) -> None:
        with self._lock:
            self._tars.update({(image, path): tar for path, tar in tars.items()})
            while len(self._tars) > 1 and sum(len(tar or b"") for tar in self._tars.values()) > self._max_bytes:
                self._tars.popitem(last=False)


_pristine_cache = _PristineCache(_MAX_PRISTINE_BYTES)


def _pristine_paths(engine: Engine, instance: Instance) -> dict[str, bytes | None]:
    tests = instance.tests
    if tests.restore_image is None or not tests.restore_paths:
        return {}
    return _pristine_cache.paths(engine, tests.restore_image, instance.environment.workdir, tests.restore_paths)
