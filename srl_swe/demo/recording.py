"""The expert's episodes: its commands really run, and each episode is on disk when it ends.

The files are an evaluation's: trajectories, predictions, verdicts and a report, so that compiling reads them like
published ones, the verdict from the report included. What the expert does is left to `expert`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from srl_swe.demo.expert import Answer, ExpertGaveUpError, repair_script
from srl_swe.demo.instances import Repair
from srl_swe.environments.swe_env import SWEEnv
from srl_swe.errors import ContainerError
from srl_swe.evaluation.episodes import Episode, EpisodeResult, write_episode
from srl_swe.evaluation.predictions import PREDICTIONS_FILE, resume_predictions
from srl_swe.evaluation.progress import RunningTable
from srl_swe.files import append_json_line, repair_last_line, sole_writer
from srl_swe.pool import WorkPool
from srl_swe.prompts import render, write
from srl_swe.types import Instance, Prediction, Step

EXPERT_NAME = "scripted-expert"
GIVEN_UP_FILE = "given_up.jsonl"
MAX_STEPS = 12
EPISODE_LIMIT_S = 600.0
ATTEMPTS = 2
"""Infrastructure failures that an instance may have before the recording stops."""


def record_expert(
    instances: Sequence[Instance],
    repairs: Mapping[str, Repair],
    folder: Path,
    *,
    max_parallel: int,
    console: Console,
) -> tuple[Prediction, ...]:
    """Let the expert act on every instance that `folder` has no episode for, and return all predictions.

    `repairs` is by instance id. Instances on which the expert gives up are listed with the reason in given_up.jsonl
    and not tried again.

    Raises:
        ContainerError: infrastructure failed; finished episodes are kept.
    """
    with sole_writer(folder):
        given_up = folder / GIVEN_UP_FILE
        repair_last_line(given_up)
        predictions = list(resume_predictions(folder / PREDICTIONS_FILE))
        done = {prediction.instance_id for prediction in predictions} | set(_given_up(given_up))
        waiting = [instance for instance in instances if instance.instance_id not in done]
        pool = WorkPool(max_parallel)
        with RunningTable("expert", num_total=len(instances), num_earlier=len(done), console=console) as table:

            def play(instance: Instance) -> EpisodeResult:
                table.stage(instance.instance_id, "acting")
                retrying = Retrying(
                    retry=retry_if_exception_type(ContainerError), stop=stop_after_attempt(ATTEMPTS), reraise=True
                )
                return retrying(play_episode, instance, repairs[instance.instance_id])

            for instance, outcome in pool.run(waiting, play, limit_s=lambda _: EPISODE_LIMIT_S):
                if isinstance(outcome, ExpertGaveUpError):
                    append_json_line(given_up, {"instance_id": instance.instance_id, "reason": str(outcome)})
                    table.finish(instance.instance_id, "given up", str(outcome))
                elif isinstance(outcome, Exception):
                    pool.join(EPISODE_LIMIT_S)
                    raise outcome
                else:
                    prompt = render(instance.problem_statement, ())
                    config = {"model": {"model_name": EXPERT_NAME}}
                    write_episode(folder, outcome, prompt=prompt, config=config)
                    predictions.append(outcome.prediction)
                    table.finish(instance.instance_id, "submitted", f"{len(outcome.trajectory.steps)} steps")
    return tuple(predictions)


def given_up_counts(folder: Path) -> Counter[str]:
    """Count the reasons why the expert gave up."""
    return Counter(_given_up(folder / GIVEN_UP_FILE).values())


def play_episode(instance: Instance, repair: Repair) -> EpisodeResult:
    """Run the expert on one instance, without grading.

    Raises:
        ExpertGaveUpError: the script did not lead to a repair that helps.
        ContainerError: infrastructure failed.
    """
    episode = Episode(instance=instance)
    environment = SWEEnv(instances=[instance], grade=False, max_steps=MAX_STEPS, num_warm=0)
    try:
        environment.reset(options={"instance_id": instance.instance_id})
        script = repair_script(instance.problem_statement, repair)
        completion = next(script)
        while True:
            observation, _, terminated, truncated, info = environment.step(completion.action)
            exit_code = info.get("exit_code")
            step = Step(
                thought=completion.thought, action=completion.action, observation=observation, exit_code=exit_code
            )
            episode.add_step(write(step.thought, step.action), step)
            if terminated:
                return episode.finish(model=EXPERT_NAME, patch=info["patch"], exit_status="submitted")
            if truncated:
                raise ExpertGaveUpError("too many steps")
            try:
                completion = script.send(Answer(observation=observation, exit_code=exit_code))
            except StopIteration:
                raise ContainerError(f"{instance.instance_id}: the environment did not end at submit") from None
    finally:
        environment.close()


def _given_up(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {record["instance_id"]: record["reason"] for record in map(json.loads, lines)}
