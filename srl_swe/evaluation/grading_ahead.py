"""Grades predictions while other episodes are still played, so that an image comes once for both and then may go.

A verdict goes where `scheduler` looks for earlier ones; what fails here is left to it. Left out: the images themselves
(`srl_swe.environments.image_supply`).
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

from srl_swe.evaluation.progress import printable
from srl_swe.evaluation.results import VerdictStore
from srl_swe.evaluation.scheduler import (
    RESULTS_FOLDER,
    EvaluationConfig,
    container_judge,
    grading_limit_s,
    image_digest,
    own_containers,
    stop_running_safely,
)
from srl_swe.pool import BackgroundWork, WorkPool
from srl_swe.types import Instance, Prediction, Verdict

if TYPE_CHECKING:
    from srl_swe.environments.engine import Engine
    from srl_swe.environments.image_supply import ImageSupply

_TICK_S = 0.2

logger = logging.getLogger(__name__)

_Job = tuple[Instance, str]
"""(instance, patch)."""


class GradingAhead:
    """The images of an agent's episodes, and the grading behind them. The end of its block waits for all verdicts."""

    def __init__(
        self, engine: "Engine", images: "ImageSupply", config: EvaluationConfig, *, console: Console | None = None
    ) -> None:
        """`config` is that of the evaluation which follows; nothing is graded here that it would grade again."""
        self._engine = engine
        self._images = images
        self._config = config
        self._console = console or Console(stderr=True)
        self._store = VerdictStore(
            config.output / RESULTS_FOLDER, image_digest=lambda instance: image_digest(engine, instance)
        )
        self._judge = container_judge(engine)
        self._pool = WorkPool(config.max_parallel)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopping = False
        self._others = own_containers(engine)
        self._thread = threading.Thread(target=self._work, name="grading", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        try:
            while error is None and self._thread.is_alive():
                self._thread.join(1.0)
        finally:
            if self._thread.is_alive():
                self._stopping = True
                self.stop()
                stop_running_safely(self._stop_running, self._pool)

    def ordered(self, instances: Sequence[Instance]) -> list[Instance]:
        """Return the instances in the order in which their images come."""
        # Each for its episode and for its grading.
        return self._images.ordered(instances, uses=2)

    def admit(self, instance: Instance) -> bool:
        """Make room for an episode's image; False where it has to wait. See `ImageSupply.admit`."""
        return self._images.admit(instance)

    def stop(self) -> None:
        """Let episodes and gradings that wait for images fail."""
        self._images.stop()

    def fetch(self, instance: Instance) -> None:
        """Wait until an admitted episode's image is here. Raises ImageError, EngineUnavailableError."""
        self._images.fetch(instance)

    def release(self, instance: Instance, *, predicted: bool) -> None:
        """End an admitted episode; with `predicted` its image stays until the grading."""
        if predicted:
            self._images.admit(instance)  # it is here: always True
        self._images.release(instance)

    @contextlib.contextmanager
    def played(self, instance: Instance) -> Iterator[None]:
        """Hold the image of an admitted episode; where that ends well, until `predicted` is told of it."""
        predicted = False
        try:
            self.fetch(instance)
            yield
            predicted = True
        finally:
            self.release(instance, predicted=predicted)

    def predicted(self, instance: Instance, prediction: Prediction) -> None:
        """Grade a prediction whose image is held since the episode."""
        graded = self._config.regrade or self._store.load(instance, prediction.model_patch) is not None
        if graded or not prediction.model_patch.strip():
            self._images.release(instance)
        else:
            self._jobs.put((instance, prediction.model_patch))

    def _work(self) -> None:
        background = self._pool.in_background(self._grade, limit_s=lambda job: grading_limit_s(self._config, job[0]))
        is_open = True
        while not self._stopping and (is_open or background.num_pending):
            is_open = self._take_in(background, is_open)
            for (instance, patch), outcome in background.take(timeout_s=_TICK_S):
                if isinstance(outcome, Verdict) and outcome.status != "invalid":
                    self._keep(instance, patch, outcome)
                else:
                    logger.info("%s is graded again after the acting: %s", instance.instance_id, outcome)

    def _keep(self, instance: Instance, patch: str, verdict: Verdict) -> None:
        try:
            self._store.save(instance, patch, verdict)
        except OSError as error:  # a full disk: the evaluation that follows meets it as well, and says so
            logger.warning("the verdict of %s could not be written: %s", instance.instance_id, error)
            return
        line = f"graded: {instance.instance_id}: {verdict.status}"
        self._console.print(Text(printable(line)), soft_wrap=True, highlight=False)

    def _take_in(self, background: "BackgroundWork[_Job, Verdict]", is_open: bool) -> bool:
        """Begin what came meanwhile; return whether more may come."""
        with contextlib.suppress(queue.Empty):
            while is_open:
                job = self._jobs.get(timeout=0 if background.num_pending else _TICK_S)
                if job is None:
                    return False
                background.add(job)
        return is_open

    def _grade(self, job: _Job) -> Verdict:
        instance, patch = job
        with self._images.fetched(instance):
            return self._judge(instance, patch, lambda stage: None)

    def _stop_running(self) -> None:
        for container in own_containers(self._engine) - self._others:
            self._engine.remove(container)
