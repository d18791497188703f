"""The engine goes away in the middle: a relay stands between it and the run, and is cut."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.client import DockerClient

from srl_swe.environments.docker_engine import DockerEngine
from srl_swe.errors import EngineUnavailableError
from srl_swe.evaluation.agent import Agent
from srl_swe.evaluation.agent_config import AgentConfig
from srl_swe.evaluation.controls import gold_predictions
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate
from srl_swe.prompts import write
from tests.environments.relays import Relay
from tests.evaluation.conftest import own_containers, slow, tiny_instances
from tests.evaluation.scripted import FIX, MAX_CONTEXT, SUBMIT, ScriptedSampler, encode, told_apart

pytestmark = pytest.mark.docker


@pytest.fixture
def relay(tiny_engine: DockerEngine) -> Iterator[Relay]:
    base_url: str = tiny_engine.client.api.base_url
    if not base_url.startswith(("http+docker://", "unix://")):
        pytest.skip(f"needs an engine behind a local socket, not {base_url}")
    path = Path("/var/run/docker.sock")
    if not path.is_socket():
        pytest.skip(f"{path} is not the engine's socket")
    relay = Relay(str(path))
    yield relay
    relay.cut()


def test_the_evaluation_stops_and_goes_on_later(tmp_path: Path, tiny_engine: DockerEngine, relay: Relay) -> None:
    quick, *rest = tiny_instances(4)
    instances = (quick, *(slow(instance, 20) for instance in rest))
    predictions = gold_predictions(instances)
    config = EvaluationConfig(output=tmp_path)

    def cut_when_one_is_done() -> None:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "results").glob("*/*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        relay.cut()

    threading.Thread(target=cut_when_one_is_done, daemon=True).start()
    started = time.monotonic()
    with (
        DockerEngine(DockerClient(base_url=f"tcp://127.0.0.1:{relay.port}", timeout=30)) as engine,
        pytest.raises(EngineUnavailableError, match="run the same command again"),
    ):
        evaluate(instances, predictions, config, engine=engine)
    assert time.monotonic() - started < 60
    for container in own_containers(tiny_engine):
        tiny_engine.remove(container)  # the relay is gone; a later start of the program would remove them
    fast = tiny_instances(4)
    summary = evaluate(fast, gold_predictions(fast), config, engine=tiny_engine)
    assert summary.num_resolved == 4


def test_the_agent_stops_and_goes_on_later(
    tmp_path: Path, tiny_engine: DockerEngine, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = told_apart(2)
    quick, late = (instance.instance_id for instance in instances)

    def cut_when_one_is_done(batch: int) -> None:
        if (tmp_path / "predictions.jsonl").exists():
            relay.cut()

    def agent_of(sampler: ScriptedSampler) -> Agent:
        config = AgentConfig(max_completion_tokens=100, command_timeout_s=10.0)
        return Agent(sampler, encode, max_context=MAX_CONTEXT, model_name="scripted", config=config)

    scripts = {quick: [SUBMIT], late: [write("I look.", "sleep 0.2")]}
    agent = agent_of(ScriptedSampler(scripts, before_batch=cut_when_one_is_done))
    with monkeypatch.context() as patched:
        patched.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{relay.port}")
        with pytest.raises(EngineUnavailableError, match="start the engine and run the same command again"):
            agent.run(instances, tmp_path)
    for container in own_containers(tiny_engine):
        tiny_engine.remove(container)
    outcome = agent_of(ScriptedSampler({late: [FIX, SUBMIT]})).run(instances, tmp_path)
    assert len(outcome.predictions) == 2
    assert len(outcome.episodes) == 1
