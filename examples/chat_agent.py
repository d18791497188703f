"""A model behind any OpenAI-compatible chat endpoint (vLLM, SGLang, llama.cpp, a provider) acts in the environment.

    OPENAI_API_KEY=… python examples/chat_agent.py --instances instances.jsonl --instance-id ID \
        --base-url http://localhost:8000/v1 --model NAME

Prompts and answers are those of training and evaluation (`srl_swe.prompts`), so a model trained here meets what it
knows. A malformed answer is answered, as `srl-swe eval` does.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import requests
import tyro
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

import srl_swe  # noqa: F401 - registers the environment
from srl_swe.environments.wrappers import RecordEpisode
from srl_swe.errors import MalformedCompletionError, SrlSweError
from srl_swe.prompts import NO_COMMAND, PromptLimits, parse, render
from srl_swe.types import HistoryPair, Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Play one episode with a model behind a chat endpoint."""

    instances: Path
    """File of instances (.jsonl, .json, .parquet)."""
    model: str
    """Name of the model at the endpoint."""
    instance_id: str | None = None
    """The instance to play; default: the first that the seed draws."""
    base_url: str = "https://api.openai.com/v1"
    """The endpoint, without /chat/completions. Its key is taken from $OPENAI_API_KEY, where there is one."""
    max_steps: int = 40
    """Commands of the episode."""
    max_malformed: int = 3
    """Malformed answers in a row that end the episode."""
    max_completion_tokens: int = 1024
    temperature: float = 0.0
    request_timeout_s: float = 600.0
    record: Path = Path("runs/chat-agent")
    """Folder for the trajectory of the episode."""
    limits: Annotated[PromptLimits, tyro.conf.arg(name="")] = field(default_factory=PromptLimits)


class BusyError(Exception):
    """The endpoint could not answer now; it may answer later."""


@retry(
    retry=retry_if_exception_type((BusyError, requests.ConnectionError, requests.Timeout)),
    stop=stop_after_attempt(6),
    wait=wait_exponential_jitter(initial=0.5, max=60.0),
    reraise=True,
)
def complete(arguments: Arguments, messages: list[Message]) -> str:
    """Return the model's answer; try again where the endpoint is busy or cannot be reached."""
    key = os.environ.get("OPENAI_API_KEY")
    response = requests.post(
        f"{arguments.base_url.rstrip('/')}/chat/completions",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        json={
            "model": arguments.model,
            "messages": messages,
            "temperature": arguments.temperature,
            "max_tokens": arguments.max_completion_tokens,
        },
        timeout=arguments.request_timeout_s,
    )
    if response.status_code == 429 or response.status_code >= 500:
        raise BusyError(f"{response.url}: HTTP {response.status_code}: {response.text[:500]}")
    if response.status_code != 200:
        raise SystemExit(f"{response.url}: HTTP {response.status_code}: {response.text[:500]}")
    answer: dict[str, Any] = response.json()
    return answer["choices"][0]["message"]["content"] or ""


def play(env: RecordEpisode, arguments: Arguments) -> dict[str, Any]:
    """Play one episode and return its last `info`."""
    problem_statement, info = env.reset(seed=0)
    history: list[HistoryPair] = []
    num_malformed = 0
    while True:
        text = complete(arguments, render(problem_statement, history, arguments.limits))
        try:
            completion = parse(text)
        except MalformedCompletionError as error:
            num_malformed += 1
            print(f"malformed answer: {error}")
            history.append(HistoryPair(action=NO_COMMAND, observation=f"Your answer was malformed: {error}"))
            if num_malformed < arguments.max_malformed:
                continue
            return info | env.finish()
        num_malformed = 0
        env.think(completion.thought)
        observation, _, terminated, truncated, info = env.step(completion.action)
        print(f"{completion.thought}\n$ {completion.action}\n{observation}")
        if terminated or truncated:
            return info
        history.append(HistoryPair(action=completion.action, observation=observation))


def main() -> None:
    """Play, and print how it ended."""
    arguments = tyro.cli(Arguments)
    env = gym.make(
        "srl_swe/SWE-v0",
        instances=arguments.instances,
        instance_id=arguments.instance_id,
        max_steps=arguments.max_steps,
    )
    recorded = RecordEpisode(env, arguments.record, model=arguments.model)
    try:
        info = play(recorded, arguments)
    finally:
        recorded.close()
    print(info["patch"])
    print(f"{info['instance_id']}: {info['verdict'].status if 'verdict' in info else 'ended by a limit, not graded'}")
    print(f"recorded as {recorded.last_record}")


if __name__ == "__main__":
    try:
        main()
    except SrlSweError as error:
        sys.exit(f"{type(error).__name__}: {error}")
