"""The loop of every agent; a list of commands stands in the agent's place.

python examples/loop.py --instances instances.jsonl --instance-id ID --actions "ls" "git log --oneline" submit
"""

import sys
from pathlib import Path

import gymnasium as gym
import tyro

import srl_swe  # noqa: F401 - registers the environment
from srl_swe.errors import SrlSweError


def main(
    instances: Path, instance_id: str | None = None, actions: tuple[str, ...] = ("ls", "git log --oneline", "submit")
) -> None:
    """Play one episode.

    Args:
        instances: File of instances (.jsonl, .json, .parquet).
        instance_id: The one to play; default: the first that the seed draws.
        actions: What the agent does, command by command.
    """
    env = gym.make("srl_swe/SWE-v0", instances=instances, instance_id=instance_id)
    observation, info = env.reset(seed=0)
    print(observation)
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        print(f"$ {action}\n{observation}")
        if terminated or truncated:
            print(f"reward {reward}, {info['verdict'].status if 'verdict' in info else 'not graded'}")
            break
    env.close()


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except SrlSweError as error:
        sys.exit(f"{type(error).__name__}: {error}")
