"""Grades predictions: many instances at once, every verdict on disk as it comes, resumable at any moment.

How one patch is judged is left to `srl_swe.environments.grading`, where to `dispatch`, the figures to `report`.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from srl_swe.errors import ConfigError, ContainerError, EngineUnavailableError, MissingExtraError, SrlSweError
from srl_swe.evaluation.cheats import find_cheats
from srl_swe.evaluation.dispatch import Dispatch, Job
from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.places import EnginePlace, Place
from srl_swe.evaluation.predictions import check_known
from srl_swe.evaluation.progress import RunningTable
from srl_swe.evaluation.record import EvaluationRecord, outcomes, write_record
from srl_swe.evaluation.report import Summary, official_report, summarize, write_reports
from srl_swe.evaluation.results import VerdictStore, harness_version
from srl_swe.evaluation.stability import how_often, worth_confirming
from srl_swe.files import sole_writer
from srl_swe.pool import WorkPool
from srl_swe.types import Instance, Prediction, Verdict

if TYPE_CHECKING:
    from srl_swe.environments.engine import Engine

RESULTS_FOLDER = "results"
IMAGE_LIMIT_S = 3600.0
"""Of the pull or build of one image, where nothing else is waited for."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """How predictions are graded."""

    output: Path
    """Folder of results/, report.json and summary.json; given again, the evaluation goes on where it stopped."""
    max_parallel: int = 2
    """Instances graded at once, at each engine."""
    image_limit_s: float = IMAGE_LIMIT_S
    """Longest that one instance's image may take to be built or pulled."""
    grace_s: float = 300.0
    """Added to twice an instance's own test limit: starting, patching, copying logs."""
    retry_invalid: bool = True
    """Grade again what infrastructure failures of earlier runs left without a verdict."""
    regrade: bool = False
    """Grade everything, whatever earlier runs found."""
    confirm: int = 1
    """Gradings of each patch. The first one counts; the others show which verdicts do not repeat."""
    split: str = ""
    """Name of the task set, for the record."""
    choice: str = ""
    """Which part of it was asked for, for the record."""

    def __post_init__(self) -> None:
        for name in ("max_parallel", "confirm"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("image_limit_s", "grace_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0 seconds, not {getattr(self, name)}")


def evaluate(
    instances: Sequence[Instance],
    predictions: Sequence[Prediction],
    config: EvaluationConfig,
    *,
    engine: "Engine",
    invalid_episodes: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> Summary:
    """Grade the predictions in containers, write report.json and summary.json, and return the summary.

    What an earlier call wrote into the same folder for the same patch and tests is not graded again.
    `invalid_episodes` says, by instance id, why the agent could not predict (infrastructure failed).

    Raises:
        DataError: a prediction is for an instance that was not asked for.
        EngineUnavailableError: the engine stopped answering; what was graded until then is kept.
        KeyboardInterrupt: after the running containers were removed and the reports written.
    """
    with Fleet([EnginePlace(engine.name, engine)]) as fleet:
        return evaluate_on(fleet, instances, predictions, config, invalid_episodes=invalid_episodes, console=console)


def evaluate_on(
    fleet: Fleet,
    instances: Sequence[Instance],
    predictions: Sequence[Prediction],
    config: EvaluationConfig,
    *,
    invalid_episodes: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> Summary:
    """Do what `evaluate` does at the places of a fleet, which stays open. Verdicts are stored here alone."""
    check_known(predictions, instances)
    started = time.monotonic()
    with sole_writer(config.output):
        fleet.prepare(instances)
        stores = [
            VerdictStore(config.output / RESULTS_FOLDER, number=number, image_digest=fleet.image_digest)
            for number in range(1, config.confirm + 1)
        ]
        rounds = [
            {} if config.regrade else _earlier_verdicts(instances, predictions, store, config) for store in stores
        ]
        verdicts = rounds[0]
        try:
            for number, (store, found) in enumerate(zip(stores, rounds, strict=True), start=1):
                jobs = _pending(instances, predictions, found)
                if number > 1:
                    jobs = [job for job in jobs if worth_confirming(verdicts.get(job[0].instance_id))]
                title = "grading" if number == 1 else f"grading, {number} of {config.confirm} times"
                run = _Run(
                    title=title,
                    config=config,
                    store=store,
                    fleet=fleet,
                    verdicts=found,
                    console=console or Console(stderr=True),
                )
                run.grade(jobs)
        finally:
            summary = _write_outcomes(
                instances,
                predictions,
                rounds,
                config,
                store=stores[0],
                invalid_episodes=invalid_episodes or {},
                wall_s=time.monotonic() - started,
            )
    return summary


def _write_outcomes(
    instances: Sequence[Instance],
    predictions: Sequence[Prediction],
    rounds: Sequence[Mapping[str, Verdict]],
    config: EvaluationConfig,
    *,
    store: VerdictStore,
    invalid_episodes: Mapping[str, str],
    wall_s: float,
) -> Summary:
    """Write report.json, summary.json and evaluation.json; the first of the rounds of grading counts."""
    verdicts = rounds[0]
    asked = outcomes(instances, predictions, rounds, invalid_episodes, store=store, folder=config.output)
    summary = replace(
        summarize(
            instances,
            predictions,
            verdicts,
            invalid_episodes=invalid_episodes,
            wall_s=wall_s,
            cheats=find_cheats(config.output, instances, predictions, verdicts),
        ),
        flaky={each.instance_id: how_often(each.gradings) for each in asked if each.flaky},
    )
    write_reports(config.output, official_report(instances, predictions, verdicts), summary)
    record = EvaluationRecord(
        split=config.split,
        choice=config.choice,
        model=summary.model,
        models=tuple(sorted({prediction.model_name_or_path for prediction in predictions})),
        harness=harness_version(skip_reinstall=any(instance.tests.skip_reinstall for instance in instances)),
        wall_s=wall_s,
        instances=asked,
    )
    write_record(config.output, record)
    return summary


@dataclass(kw_only=True, slots=True)
class _Run:
    """One grading of all patches: where outcomes go."""

    title: str
    config: EvaluationConfig
    store: VerdictStore
    fleet: Fleet
    verdicts: dict[str, Verdict]
    console: Console

    def grade(self, jobs: Sequence[Job]) -> None:
        """Grade the jobs; when no engine is left or on Ctrl-C stop what runs, say how to go on, and raise."""
        num_earlier = len(self.verdicts)
        table = RunningTable(
            self.title, num_total=num_earlier + len(jobs), num_earlier=num_earlier, console=self.console
        )
        try:
            with table:
                for instance, prediction in jobs:
                    if not prediction.model_patch:
                        # Not run, as the official harness does; it would cost an image and fail its tests.
                        verdict = Verdict(instance_id=instance.instance_id, status="unresolved", reason="empty patch")
                        self._record(instance, prediction, verdict, table)
                dispatch = Dispatch(
                    self.fleet,
                    self._ordered([job for job in jobs if job[1].model_patch]),
                    lambda place, job: self._judge(place, job, table),
                    max_parallel=self.config.max_parallel,
                    limit_s=lambda job: grading_limit_s(self.config, job[0]),
                )
                for (instance, prediction), outcome in dispatch.outcomes():
                    self._record(instance, prediction, _as_verdict(instance, outcome), table)
        except BaseException as error:
            # Whatever ends the run early (Ctrl-C, a lost engine, a full disk), no container may outlive it.
            self.console.print("stopping: removing the running containers", markup=False)
            stop_running_safely(self.fleet.stop_running, self.fleet.pool)
            self.console.print(f"stopped with {len(self.verdicts)} verdicts; {self._how_to_resume()}", markup=False)
            if isinstance(error, ContainerError):
                raise EngineUnavailableError(
                    f"the container engine stopped answering after {len(self.verdicts)} verdicts: {error}. "
                    f"Start it, then {self._how_to_resume()}"
                ) from error
            raise

    def _judge(self, place: Place, job: Job, table: RunningTable) -> Verdict:
        instance, prediction = job
        started = time.monotonic()
        where = f" at {place.name}" if self.fleet.num_ever > 1 else ""

        def say(stage: str) -> None:
            if place in self.fleet.places:  # what is left behind at a lost one has no more to say
                table.stage(instance.instance_id, stage + where)

        say("starting")
        verdict = place.judge(instance, prediction.model_patch, say)
        return verdict if verdict.duration_s else replace(verdict, duration_s=time.monotonic() - started)

    def _record(self, instance: Instance, prediction: Prediction, verdict: Verdict, table: RunningTable) -> None:
        self.store.save(instance, prediction.model_patch, verdict)
        self.verdicts[instance.instance_id] = verdict
        table.finish(instance.instance_id, verdict.status, verdict.reason)

    def _ordered(self, jobs: Sequence[Job]) -> Sequence[Job]:
        by_id = {job[0].instance_id: job for job in jobs}
        return [by_id[instance.instance_id] for instance in self.fleet.ordered([job[0] for job in jobs])]

    def _how_to_resume(self) -> str:
        return f"run the same command again to go on (results are in {self.config.output})"


def grading_limit_s(config: EvaluationConfig, instance: Instance) -> float:
    """Return the longest that one instance may take to be graded, in seconds, its image included."""
    return config.image_limit_s + 2 * instance.tests.timeout_s + config.grace_s


def stop_running_safely(stop_running: Callable[[], object], pool: WorkPool, *, limit_s: float = 20.0) -> None:
    """Stop running work twice: a thread may have been about to start a container the first time."""
    for _ in range(2):
        try:
            stop_running()
        except ContainerError as error:
            logger.warning("running containers could not be removed, `srl-swe gc` does it later: %s", error)
            return
        if pool.join(limit_s / 2):
            break
    else:
        logger.warning("work is still running after %.0f s; `srl-swe gc` removes what it leaves", limit_s)


def _as_verdict(instance: Instance, outcome: Verdict | Exception) -> Verdict:
    if isinstance(outcome, Verdict):
        return outcome
    if isinstance(outcome, MissingExtraError):
        raise outcome  # no instance can be graded without it
    reason = f"{type(outcome).__name__}: {outcome}"
    # Our own errors say all that is to be said; what we did not expect needs its trace.
    trace = None if isinstance(outcome, SrlSweError) else outcome
    logger.warning("%s has no verdict: %s", instance.instance_id, reason, exc_info=trace)
    return Verdict(instance_id=instance.instance_id, status="invalid", reason=reason)


def _earlier_verdicts(
    instances: Sequence[Instance], predictions: Sequence[Prediction], store: VerdictStore, config: EvaluationConfig
) -> dict[str, Verdict]:
    verdicts = {}
    for instance, prediction in _pending(instances, predictions, {}):
        verdict = store.load(instance, prediction.model_patch)
        if verdict and not (verdict.status == "invalid" and config.retry_invalid):
            verdicts[instance.instance_id] = verdict
    return verdicts


def _pending(
    instances: Sequence[Instance], predictions: Sequence[Prediction], verdicts: Mapping[str, Verdict]
) -> list[Job]:
    by_id = {prediction.instance_id: prediction for prediction in predictions}
    return [
        (instance, by_id[instance.instance_id])
        for instance in instances
        if instance.instance_id in by_id and instance.instance_id not in verdicts
    ]
