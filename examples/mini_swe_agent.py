"""mini-swe-agent acts in the environment: its agent, its models and its prompts, our containers and our verdict.

    pip install 'mini-swe-agent>=2.4,<3'
    python examples/mini_swe_agent.py --instances instances.jsonl --instance-id ID --model openai/NAME

`--config` takes a configuration of mini-swe-agent (a file, or the name of one of its own). What it saves to `--output`
is read by `srl-swe data compile`.
"""

import sys
from pathlib import Path

import gymnasium as gym
import tyro
from minisweagent.agents.default import DefaultAgent
from minisweagent.config import get_config_from_spec
from minisweagent.models import get_model

import srl_swe  # noqa: F401 - registers the environment
from srl_swe.environments.mini_swe_agent import MiniSweAgentEnvironment
from srl_swe.errors import SrlSweError


def main(
    instances: Path,
    instance_id: str | None = None,
    model: str | None = None,
    config: str = str(Path(__file__).with_suffix(".yaml")),
    output: Path = Path("runs/mini-swe-agent/episode.traj.json"),
) -> None:
    """Play one episode.

    Args:
        instances: File of instances (.jsonl, .json, .parquet).
        instance_id: The one to play; default: the first that the seed draws.
        model: Name of the model as litellm knows it; default: the configuration's.
        config: Configuration of mini-swe-agent; its parts `agent` and `model` are used.
        output: Where its trajectory is saved.
    """
    settings = get_config_from_spec(config)
    env = gym.make("srl_swe/SWE-v0", instances=instances, instance_id=instance_id)
    try:
        problem_statement, _ = env.reset(seed=0)
        environment = MiniSweAgentEnvironment(env)
        agent = DefaultAgent(
            get_model(model, settings.get("model")), environment, **settings["agent"], output_path=output
        )
        outcome = agent.run(problem_statement)
    finally:
        env.close()
    print(outcome["submission"])
    print(f"{environment.config.instance_id}: {outcome['exit_status']}, {outcome.get('verdict', 'not graded')}")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except SrlSweError as error:
        sys.exit(f"{type(error).__name__}: {error}")
