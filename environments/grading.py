"""A patch is judged: applied in a fresh container, tested there, and read by SWE-bench's own parsers and rules.

What goes wrong outside the patch (engine, image, container) gives the verdict "invalid", never "unresolved". Leaves
out the rules themselves (`official_rules.py`), parallelism and storage (`srl_swe.evaluation`). Binary assets of
SWE-bench Multimodal rows are not staged.

What protects the tests: their own files come from the pristine package image (`pristine.py`), what steers them comes
back to its state before the patch (`patching.py`), and a log that says "resolved" is held against what the test
runner said over a channel of its own (`outcome_channel.py`, `forgery.py`).
"""

import logging
import posixpath
import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from tenacity import RetryCallState, Retrying, retry_if_exception_type, retry_if_not_exception_type, stop_after_attempt

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.forgery import find_signs
from srl_swe.environments.image_uses import using_images
from srl_swe.environments.images import ensure_image
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.official_rules import END_MARKER, START_MARKER, Judgement, judge_log, require_rules
from srl_swe.environments.outcome_channel import MAX_CHANNEL_BYTES, channel_files, instrument, read_records
from srl_swe.environments.patching import AppliedPatch, apply_patch
from srl_swe.environments.pristine import pristine_paths, restore_paths
from srl_swe.environments.reinstalling import without_reinstall
from srl_swe.environments.streams import OutputBuffer
from srl_swe.errors import ContainerError, ImageError
from srl_swe.types import CommandResult, Instance, Verdict, VerdictStatus

_FOLDER = "/srl_swe_grading"
_MAX_LOG_BYTES = 32 << 20
_MAX_KNOWN_INSTANCES = 512

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """One run of the tests on a patch."""

    applied: AppliedPatch
    result: CommandResult
    judgement: Judgement
    signs: tuple[str, ...]
    """Of forgery, where they were looked for."""
    left_out: tuple[str, ...] = ()
    """Lines of the script that were not run."""


class _TestsEndedError(ContainerError):
    """The tests did not come to their end; the patch's doing only if it happens again in a new container."""

    def __init__(self, reason: str, log: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.log = log


def grade(
    engine: Engine,
    instance: Instance,
    patch: str,
    *,
    limits: ContainerLimits | None = None,
) -> Verdict:
    """Judge one patch in a fresh container; the default limits have no network.

    A failure of the infrastructure is tried once more in a new container. Without the start marker in the log the
    script never came to the tests, and a script that ended well without the end marker has lost its log: both are
    such failures. Tests that twice go over the memory limit, or twice end the script between the markers, are
    unresolved. A log that says "resolved" and is not believed is unresolved with the reason "forged"; what makes it
    unbelievable is compared with a run of the gold patch first, so that an instance's own oddities do not count.

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
    used = [instance.environment.image, *filter(None, [instance.tests.restore_image])]
    try:
        with using_images(*used):
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
    run = _run(engine, instance, patch, limits)
    status: VerdictStatus = "resolved" if run.judgement.resolved else "unresolved"
    reason = "" if run.judgement.resolved else "tests"
    signs: tuple[str, ...] = ()
    if run.applied.problem:
        status, reason = "unresolved", run.applied.problem
    elif run.result.timed_out:
        status, reason = "unresolved", "timeout"
    elif run.signs:
        own = _known_signs.get(instance)
        if own is None:
            is_gold = _is_gold(instance, patch)
            own = frozenset(run.signs if is_gold else _gold_signs(engine, instance, limits))
            _known_signs.keep(instance, own)
        signs = tuple(sign for sign in run.signs if sign not in own)
        status, reason = ("unresolved", "forged") if signs else (status, reason)
    return Verdict(
        instance_id=instance.instance_id,
        status=status,
        reason=reason,
        test_status=run.judgement.test_status,
        log=run.result.output,
        duration_s=time.monotonic() - started,
        restored=run.applied.restored,
        signs=signs,
        left_out=run.left_out,
    )


def _run(
    engine: Engine,
    instance: Instance,
    patch: str,
    limits: ContainerLimits,
    *,
    look_always: bool = False,
) -> _Run:
    """Run the tests on a patch; signs of forgery are looked for where the log says "resolved", or always."""
    environment, tests = instance.environment, instance.tests
    image = ensure_image(engine, environment)
    pristine = pristine_paths(engine, instance)
    hint = f"grade-{instance.instance_id}"
    with Container.start(engine, image, workdir=environment.workdir, limits=limits, name_hint=hint) as container:
        applied = apply_patch(container, instance, patch, _FOLDER)
        if applied.problem:
            result = CommandResult(output=applied.log, exit_code=0, duration_s=0.0)
            return _Run(applied=applied, result=result, judgement=Judgement(resolved=False, test_status={}), signs=())
        script, left_out = tests.script, tuple[str, ...]()
        if tests.skip_reinstall:
            script, left_out = without_reinstall(container, instance, patch)
        restore_paths(container, environment.workdir, pristine)
        container.write_files(
            {
                f"{_FOLDER}/eval.sh": instrument(script, _FOLDER, environment.workdir).encode(),
                **channel_files(_FOLDER, _watched(instance)),
            }
        )
        channel = OutputBuffer(MAX_CHANNEL_BYTES)
        result = _run_tests(container, tests.timeout_s, channel)
        out_of_memory = _memory_kills(container) > 0
    judgement = judge_log(instance, result.output)
    if result.timed_out or not judgement.resolved:
        _require_end(instance, result, out_of_memory=out_of_memory)
    if result.timed_out or not (judgement.resolved or look_always):
        return _Run(applied=applied, result=result, judgement=judgement, signs=(), left_out=left_out)
    signs = find_signs(instance, judgement.test_status, result, read_records(channel.content()))
    return _Run(applied=applied, result=result, judgement=judgement, signs=signs, left_out=left_out)


def _require_end(instance: Instance, result: CommandResult, *, out_of_memory: bool) -> None:
    """Raise ContainerError where a run that is not resolved did not come to its end."""
    log = result.output
    if out_of_memory:
        raise _TestsEndedError("out of memory", log)
    if result.timed_out:
        return
    for marker in (START_MARKER, END_MARKER):
        if marker not in log and (marker == START_MARKER or result.exit_code == 0):
            raise ContainerError(
                f"instance {instance.instance_id}: its evaluation script ended with exit code {result.exit_code}"
                f" and without the marker {marker!r}; its last words: {log[-500:]!r}"
            )
    if END_MARKER not in log:
        raise _TestsEndedError(f"tests ended the evaluation script, exit code {result.exit_code}", log)


def _run_tests(container: Container, timeout_s: float, channel: OutputBuffer) -> CommandResult:
    try:
        return container.execute(
            ["bash", f"{_FOLDER}/eval.sh"], timeout_s=timeout_s, max_output_bytes=_MAX_LOG_BYTES, side=channel
        )
    except ContainerError as error:
        state = container.engine.state(container.name)
        if state.out_of_memory and not state.running:
            raise _TestsEndedError("out of memory", "") from error
        raise


def _watched(instance: Instance) -> list[str]:
    """Return the files that hold tests, which nothing may change while they run: those of the required tests' ids,
    those that a SWE-bench script takes from the base commit, and what is brought from outside of the work tree."""
    ids = (*instance.tests.fail_to_pass, *instance.tests.pass_to_pass)
    paths = {test.split("::", 1)[0] for test in ids if "::" in test}
    for names in re.findall(r"^git checkout [0-9a-f]{7,40} (.+)$", instance.tests.script, flags=re.MULTILINE):
        paths.update(names.split())
    paths.update(path for path in instance.tests.restore_paths if posixpath.isabs(path))
    return sorted(posixpath.join(instance.environment.workdir, path) for path in paths)


def _is_gold(instance: Instance, patch: str) -> bool:
    return patch.strip() == instance.gold_patch.strip()


def _gold_signs(engine: Engine, instance: Instance, limits: ContainerLimits) -> tuple[str, ...]:
    """Return what a run of the gold patch shows, resolved or not.

    Raises:
        ContainerError: it did not come to its end, so there is nothing to compare with.
    """
    try:
        run = _run(engine, instance, instance.gold_patch, limits, look_always=True)
        problem = run.applied.problem or ("timeout" if run.result.timed_out else "")
    except _TestsEndedError as error:
        problem = error.reason
    if problem:
        raise ContainerError(
            f"instance {instance.instance_id}: a result that says resolved shows signs of forgery, and there is no run"
            f" of the gold patch here to compare it with ({problem}); look at it with --gold"
        )
    return run.signs


def _memory_kills(container: Container) -> int:
    """Return how many processes the kernel has ended for memory in this container (cgroup v1 or v2)."""
    command = "cat /sys/fs/cgroup/memory/memory.oom_control /sys/fs/cgroup/memory.events 2>/dev/null"
    result = container.execute(["/bin/sh", "-c", command])
    return sum(int(count) for count in re.findall(r"^oom_kill (\d+)$", result.output, flags=re.MULTILINE))


class _KnownSigns:
    """What a run of the gold patch shows, by instance, for as long as the process lives; the ones used last stay."""

    def __init__(self) -> None:
        self._signs: OrderedDict[Instance, frozenset[str]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, instance: Instance) -> frozenset[str] | None:
        with self._lock:
            return self._signs.get(instance)

    def keep(self, instance: Instance, signs: frozenset[str]) -> None:
        with self._lock:
            self._signs[instance] = signs
            while len(self._signs) > _MAX_KNOWN_INSTANCES:
                self._signs.popitem(last=False)


_known_signs = _KnownSigns()
