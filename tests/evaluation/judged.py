"""Evaluations by a judge that a test wrote, in the place of an engine."""

from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.places import Judge
from srl_swe.evaluation.report import Summary
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate_on
from srl_swe.types import Instance, Prediction


def evaluate_with(
    instances: Sequence[Instance],
    predictions: Sequence[Prediction],
    config: EvaluationConfig,
    *,
    judge: Judge,
    check_alive: Callable[[], object],
    stop_running: Callable[[], object],
    invalid_episodes: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> Summary:
    """Do what `evaluate` does with any judge.

    `check_alive` raises ContainerError when nothing can be graded any more; `stop_running` makes running
    judges fail soon and leaves no container behind.
    """
    with Fleet([_JudgePlace(judge, check_alive, stop_running)]) as fleet:
        return evaluate_on(fleet, instances, predictions, config, invalid_episodes=invalid_episodes, console=console)


class _JudgePlace:
    """A place of any judge; of images it knows nothing."""

    name = "judge"

    def __init__(self, judge: Judge, check_alive: Callable[[], object], stop_running: Callable[[], object]) -> None:
        self.judge = judge
        self._check_alive = check_alive
        self._stop_running = stop_running

    def ordered(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        return instances

    def admit(self, instance: Instance) -> bool:
        return True

    def find_images(self, names: Sequence[str]) -> Mapping[str, str]:
        return {}

    def check_alive(self) -> None:
        self._check_alive()

    def stop_running(self) -> None:
        self._stop_running()

    def close(self) -> None:
        pass
