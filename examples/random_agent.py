"""An agent that looks around at random: a lower bound, and a load for the environment.

    python examples/random_agent.py --instances instances.jsonl --num-steps 20 --seed 1 --record runs/random

Its commands only read. Each is drawn from a small grammar by the generator of the action space, so that a seed gives
the same commands wherever the same files are found. The recorded episodes are trajectories for `srl-swe data compile`.
"""

import shlex
import sys
from pathlib import Path

import gymnasium as gym
import tyro
from numpy.random import Generator

import srl_swe  # noqa: F401 - registers the environment
from srl_swe.environments.wrappers import RecordEpisode
from srl_swe.errors import SrlSweError


def draw_command(generator: Generator, paths: list[str], word: str) -> str:
    """Draw a command that reads one of `paths`, or looks for a word."""
    path = shlex.quote(paths[int(generator.integers(len(paths)))]) if paths else "."
    first = int(generator.integers(1, 200))
    commands = (
        f"ls -la $(dirname {path})",
        f"wc -l {path}",
        f"sed -n {first},{first + 40}p {path}",
        f"grep -n def {path} | head -n 20",
        f"grep -rniI --max-count=3 {word[:2]} . | head -n 20",
        f"git log --oneline -n 5 -- {path}",
    )
    return commands[int(generator.integers(len(commands)))]


def main(
    instances: Path, instance_id: str | None = None, num_steps: int = 10, seed: int = 0, record: Path | None = None
) -> None:
    """Play one episode.

    Args:
        instances: File of instances (.jsonl, .json, .parquet).
        instance_id: The one to play; default: one that the seed draws.
        num_steps: Commands before `submit`.
        seed: Of the instance and of the commands.
        record: Folder for the trajectory of the episode.
    """
    env = gym.make("srl_swe/SWE-v0", instances=instances, instance_id=instance_id)
    if record is not None:
        env = RecordEpisode(env, record, model="random")
    env.reset(seed=seed)
    env.action_space.seed(seed)
    paths = env.step("git ls-files")[0].splitlines()
    for _ in range(num_steps):
        action = draw_command(env.action_space.np_random, paths, env.action_space.sample())
        observation, _, _, truncated, info = env.step(action)
        print(f"$ {action}\n{observation}")
        if truncated:
            break
    else:
        _, reward, _, _, info = env.step("submit")
        print(f"reward {reward}, {info['verdict'].status}: {info['verdict'].reason}")
    env.close()


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except SrlSweError as error:
        sys.exit(f"{type(error).__name__}: {error}")
