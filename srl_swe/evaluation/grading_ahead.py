"""Grades predictions while other episodes are still played, so that neither waits, and an image comes once for both.

A verdict goes where `scheduler` looks for earlier ones; what fails here is left to it. Left out: the images themselves
(`srl_swe.environments.image_supply`).
"""

import contextlib
import logging
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.progress import printable
from srl_swe.evaluation.results import VerdictStore
from srl_swe.evaluation.scheduler import (
    RESULTS_FOLDER,
    EvaluationConfig,
    grading_limit_s,
    stop_running_safely,
)
from srl_swe.pool import BackgroundWork, WorkPool
from srl_swe.types import Instance, Prediction, Verdict

if TYPE_CHECKING:
    from srl_swe.environments.image_supply import ImageSupply

_TICK_S = 0.2

logger = logging.getLogger(__name__)

_Job = tuple[Instance, str]
"""(instance, patch)."""


class GradingAhead:
    """The images of an agent's episodes, and the grading behind them. The end of its block waits for all verdicts."""

    def __init__(
        self,
        fleet: Fleet,
        config: EvaluationConfig,
        *,
        images: "ImageSupply | None" = None,
        console: Console | None = None,
    ) -> None:
        """`config` is that of the evaluation which follows; nothing is graded here that it would grade again.

        `images` brings the images of the engine that acts, which is then the fleet's only place.
        """
        self._fleet = fleet
        self._images = images
        self._config = config
        self._console = console or Console(stderr=True)
        self._store = VerdictStore(config.output / RESULTS_FOLDER, image_digest=fleet.image_digest)
        self._running: Counter[str] = Counter()
        # Fewer than episodes: tests that share the processors with them take longer, up to their limit.
        self._pool = WorkPool(max(1, config.max_parallel // 2))
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopping = False
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
                stop_running_safely(self._fleet.stop_running, self._pool)

    def ordered(self, instances: Sequence[Instance]) -> list[Instance]:
        """Return the instances in the order in which their images come."""
        # Each for its episode and for its grading.
        return list(instances) if self._images is None else self._images.ordered(instances, uses=2)

    def admit(self, instance: Instance) -> bool:
        """Make room for an episode's image; False where it has to wait. See `ImageSupply.admit`."""
        return self._images is None or self._images.admit(instance)

    def stop(self) -> None:
        """Let episodes and gradings that wait for images fail."""
        if self._images is not None:
            self._images.stop()

    def release(self, instance: Instance, *, predicted: bool) -> None:
        """End an admitted episode; with `predicted` its image stays until the grading."""
        if self._images is not None:
            if predicted:
                self._images.admit(instance)  # it is here: always True
            self._images.release(instance)

    @contextlib.contextmanager
    def played(self, instance: Instance) -> Iterator[None]:
        """Hold the image of an admitted episode; where that ends well, until `predicted` is told of it.

        Raises:
            ImageError, EngineUnavailableError: the image does not come.
        """
        predicted = False
        try:
            if self._images is not None:
                self._images.fetch(instance)
            yield
            predicted = True
        finally:
            self.release(instance, predicted=predicted)

    def predicted(self, instance: Instance, prediction: Prediction) -> None:
        """Grade a prediction whose image is held since the episode."""
        graded = self._config.regrade or self._store.load(instance, prediction.model_patch) is not None
        if graded or not prediction.model_patch.strip():
            if self._images is not None:
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
        self._fleet.require_places()
        place = min(self._fleet.places, key=lambda place: self._running[place.name])
        self._running[place.name] += 1
        try:
            return place.judge(instance, patch, lambda stage: None)
        finally:
            self._running[place.name] -= 1
