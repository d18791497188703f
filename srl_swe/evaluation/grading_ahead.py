"""Grades predictions while other episodes are still played, so that neither waits, and an image comes once for both.

A verdict goes where `scheduler` looks for earlier ones; what fails here is left to it. Left out: the images themselves
(`srl_swe.environments.image_supply`).
"""

import contextlib
import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

from srl_swe.errors import ContainerError
from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.places import published_image
from srl_swe.evaluation.progress import printable
from srl_swe.evaluation.results import VerdictStore
from srl_swe.evaluation.scheduler import (
    RESULTS_FOLDER,
    EvaluationConfig,
    grading_limit_s,
    stop_running_safely,
)
from srl_swe.files import sole_writer
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
        self._given_up: set[str] = set()
        self._writer = contextlib.ExitStack()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="grading", daemon=True)

    def __enter__(self) -> Self:
        # Raises ConfigError where another process grades into the folder.
        self._writer.enter_context(sole_writer(self._config.output / RESULTS_FOLDER))
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
                stop_running_safely(self._fleet.stop_running, self._fleet.pool)
            self._writer.close()

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
            if predicted and instance.instance_id not in self._given_up:
                self._images.admit(instance)  # it is here: always True
            self._images.release(instance)

    def give_up(self, instance: Instance) -> None:
        """Say that nobody waits for the instance's episode any more, though it goes on."""
        self._given_up.add(instance.instance_id)

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
        background = self._fleet.pool.in_background(
            self._grade, limit_s=lambda job: grading_limit_s(self._config, job[0])
        )
        waiting: deque[_Job] = deque()
        is_open = True
        while not self._stopping and (is_open or background.num_pending or waiting):
            is_open = self._take_in(waiting, is_open, wait=not background.num_pending)
            if not is_open and self._images is None:
                waiting.clear()  # the evaluation that follows grades them, with all engines to itself
            while waiting and background.num_pending < self._most_at_once(acting=is_open):
                background.add(waiting.popleft())
            for (instance, patch), outcome in background.take(timeout_s=_TICK_S):
                if isinstance(outcome, Verdict) and outcome.status != "invalid":
                    self._keep(instance, patch, outcome)
                else:
                    logger.info("%s is graded again after the acting: %s", instance.instance_id, outcome)

    def _most_at_once(self, *, acting: bool) -> int:
        # Fewer than episodes: tests that share the processors with them take longer, up to their limit.
        at_each = max(1, self._config.max_parallel // 2) if acting else self._config.max_parallel
        return at_each * max(1, len(self._fleet.places))

    def _take_in(self, waiting: "deque[_Job]", is_open: bool, *, wait: bool) -> bool:
        """Take in what came, after a while where there is nothing else to do; return whether more may come."""
        with contextlib.suppress(queue.Empty):
            while is_open:
                job = self._jobs.get(timeout=_TICK_S if wait and not waiting else 0)
                if job is None:
                    return False
                waiting.append(job)
        return is_open

    def _keep(self, instance: Instance, patch: str, verdict: Verdict) -> None:
        try:
            self._store.save(instance, patch, verdict)
        except OSError as error:  # a full disk: the evaluation that follows meets it as well, and says so
            logger.warning("the verdict of %s could not be written: %s", instance.instance_id, error)
            return
        line = f"graded: {instance.instance_id}: {verdict.status}"
        self._console.print(Text(printable(line)), soft_wrap=True, highlight=False)

    def _grade(self, job: _Job) -> Verdict:
        instance, patch = job
        # Where the episode was, its image is.
        place = self._fleet.choose(instance, self._running, most=max(1, self._config.max_parallel // 2))
        self._running[place.name] += 1
        try:
            verdict = place.judge(instance, patch, lambda stage: None)
            if verdict.status == "invalid":
                self._fleet.doubt(place)
            else:
                self._fleet.note_graded(published_image(place, instance))
            return verdict
        except ContainerError:
            self._fleet.doubt(place)
            raise
        finally:
            self._running[place.name] -= 1
