"""Several Ray nodes with an engine each, and the death of nodes in the middle of gradings."""

import io
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import LABEL
from srl_swe.errors import EngineUnavailableError, MissingExtraError
from srl_swe.evaluation.acting import ActingEnvironment
from srl_swe.evaluation.agent_config import AgentConfig
from srl_swe.evaluation.controls import gold_predictions, reversed_predictions
from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.independent import IndependentEpisodes
from srl_swe.evaluation.ray_nodes import RayConfig, RayNodes
from srl_swe.evaluation.report import Summary
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate, evaluate_on
from srl_swe.evaluation.spending import SpendingAccount
from srl_swe.types import Instance, Prediction
from tests.environments.embedded import CACHE, engine_with_base_image
from tests.evaluation.conftest import TINY_IMAGE, slow, tiny_instances
from tests.evaluation.ray_cluster import RESOURCE, LocalCluster, local_cluster

pytestmark = pytest.mark.docker

EMBEDDED_IMAGE = "srl-swe/test-evaluation-embedded:1"
SETUP = (
    "mkdir /testbed && cd /testbed && printf 'def add(a, b):\\n    return a - b\\n' > calc.py && git init -q && "
    "git add -A && git -c user.name=t -c user.email=t@t commit -qm base"
)
PREFIX = f"fleet{os.getpid()}__calc"
EMBEDDED = {"SRL_SWE_ENGINE": "embedded", "SRL_SWE_CACHE": str(CACHE)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """A cluster of two machines that grade, each with an engine that the other one does not know."""

    cluster: LocalCluster
    docker: Engine
    embedded: Engine
    docker_node: Any
    embedded_node: Any


@pytest.fixture(scope="module")
def machines(tiny_engine: Engine) -> Iterator[Machines]:
    with ExitStack() as stack:
        embedded = stack.enter_context(engine_with_base_image())
        for image in (TINY_IMAGE, EMBEDDED_IMAGE):
            if embedded.find_image(image) is None:
                with Container.start(embedded, "srl-swe/base:bookworm") as container:
                    result = container.execute(["bash", "-c", SETUP])
                    assert result.exit_code == 0, result.output
                    container.commit(image, labels={}, workdir="/testbed")
        cluster = stack.enter_context(local_cluster())
        docker_node, embedded_node = cluster.add({}), cluster.add(EMBEDDED)
        cluster.wait()
        yield Machines(
            cluster=cluster,
            docker=tiny_engine,
            embedded=embedded,
            docker_node=docker_node,
            embedded_node=embedded_node,
        )


@pytest.fixture
def fleet(machines: Machines) -> Iterator[Fleet]:
    config = RayConfig(address=machines.cluster.address, resource=RESOURCE)
    with RayNodes(config) as nodes, Fleet(nodes.open_places(), find_more=nodes.open_places) as fleet:
        yield fleet


def grade(
    fleet: Fleet, folder: Path, instances: Sequence[Instance], predictions: Sequence[Prediction], **options: Any
) -> Summary:
    console = Console(file=options.pop("output", io.StringIO()), width=300)
    return evaluate_on(fleet, instances, predictions, EvaluationConfig(output=folder, **options), console=console)


def statuses(folder: Path) -> dict[str, str]:
    """Return what each instance's one verdict on disk says."""
    found = {}
    for path in (folder / "results").glob("*/*.json"):
        assert path.parent.name not in found
        found[path.parent.name] = json.loads(path.read_text())["status"]
    return found


def when(ready: Any, then: Any) -> threading.Thread:
    """Do something in the background as soon as something holds."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not ready():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def own_instances(count: int, *, slow_s: float = 0.0) -> list[Instance]:
    """Return instances whose containers can be told from those of others who use the engine; the first is quick.

    The others take longer than it takes to notice that a node has died: what runs there cannot end before.
    """
    named = [replace(each, instance_id=f"{PREFIX}-{number}") for number, each in enumerate(tiny_instances(count))]
    return [named[0], *(slow(instance, slow_s) for instance in named[1:])]


def running(engine: Engine, name: str = f"srl-swe-grade-{PREFIX}-") -> set[str]:
    """Return the containers that grade our own instances, or those with another name."""
    return {row.id for row in engine.list_containers(LABEL) if row.id.startswith(name)}


def until_gone(engine: Engine, name: str = f"srl-swe-grade-{PREFIX}-") -> None:
    deadline = time.monotonic() + 30
    while left := running(engine, name):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def mixed(instances: Sequence[Instance]) -> list[Prediction]:
    """Return gold patches and such that resolve nothing, in turn."""
    pairs = zip(gold_predictions(instances), reversed_predictions(instances), strict=True)
    return [replace(pair[number % 2], model_name_or_path="mixed") for number, pair in enumerate(pairs)]


def test_instances_go_where_their_image_is(
    machines: Machines, fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of the two engines lacks the other one's image and cannot get it."""
    caplog.set_level("INFO", "srl_swe.evaluation.dispatch")
    only_docker = f"{TINY_IMAGE}-docker"
    machines.docker.client.images.get(TINY_IMAGE).tag(only_docker)  # type: ignore[attr-defined]
    images = (only_docker, EMBEDDED_IMAGE, only_docker, EMBEDDED_IMAGE)
    instances = [
        replace(instance, environment=replace(instance.environment, image=image))
        for instance, image in zip(tiny_instances(4), images, strict=True)
    ]
    try:
        # As many as there is room for: nobody is idle and takes what it has to fetch.
        summary = grade(fleet, tmp_path, instances, gold_predictions(instances))
        assert (summary.num_resolved, summary.invalid) == (4, {})
        assert "failed at" not in caplog.text
        log = next((tmp_path / "results" / "tiny__calc-1").glob("*.log")).read_text()
        assert "PASSED test_calc.py::test_add" in log
    finally:
        machines.docker.remove_image(only_docker)


def test_a_node_is_killed_and_its_episodes_are_played_elsewhere(machines: Machines, tmp_path: Path) -> None:
    third = machines.cluster.add({})
    machines.cluster.wait()
    config = RayConfig(address=machines.cluster.address, resource=RESOURCE, max_parallel=6)
    begun: Counter[str] = Counter()
    killed = threading.Event()

    class Acts:
        def act(self, environment: ActingEnvironment) -> None:
            begun[environment.instance_id] += 1
            assert environment.list_files() == ["calc.py"]
            environment.run("sed -i 's/a - b/a + b/' calc.py")
            deadline = time.monotonic() + 60
            while len(begun) < 6 and time.monotonic() < deadline:
                time.sleep(0.05)
            if not killed.is_set():
                killed.set()
                machines.cluster.kill(third)
            environment.run("sleep 12")  # longer than it takes to notice that a node has died

    with RayNodes(config) as nodes, Fleet(nodes.open_places()) as fleet:
        assert len(fleet.places) == 3
        acting = AgentConfig(command_timeout_s=60.0, max_parallel=6)
        episodes = IndependentEpisodes(Acts, model_name="class", config=acting, account=SpendingAccount(), fleet=fleet)
        instances = own_instances(6)
        outcome = episodes.run(instances, tmp_path)
        assert outcome.invalid == {}
        assert len(fleet.places) == 2
        assert sorted(begun.values()) == [1, 1, 1, 1, 2, 2], "a third of them had been at the node that was killed"
        summary = grade(fleet, tmp_path, instances, outcome.predictions)
        assert (summary.num_resolved, summary.invalid) == (6, {})
    for engine in (machines.docker, machines.embedded):
        until_gone(engine, f"srl-swe-{PREFIX}-")


def test_a_node_is_killed_and_every_instance_gets_its_verdict(machines: Machines, fleet: Fleet, tmp_path: Path) -> None:
    instances = own_instances(5, slow_s=8)
    predictions = mixed(instances)
    output = io.StringIO()
    killing = when(
        lambda: statuses(tmp_path) and running(machines.docker),
        lambda: machines.cluster.kill(machines.docker_node),
    )
    summary = grade(fleet, tmp_path, instances, predictions, output=output)
    killing.join(1)
    assert not killing.is_alive()
    assert summary.invalid == {}
    assert len(fleet.places) == 1
    evaluate(own_instances(5), predictions, EvaluationConfig(output=tmp_path / "local"), engine=machines.docker)
    assert statuses(tmp_path) == statuses(tmp_path / "local")
    assert sorted(set(statuses(tmp_path).values())) == ["resolved", "unresolved"]
    assert output.getvalue().count("5/5]") == 1
    # The machine of the dead node still has its engine here, and nobody has started anything there since.
    until_gone(machines.docker)


def test_when_all_nodes_are_dead_another_engine_goes_on(machines: Machines, fleet: Fleet, tmp_path: Path) -> None:
    instances = own_instances(5, slow_s=8)
    predictions = gold_predictions(instances)

    def kill_all() -> None:
        for node in (machines.docker_node, machines.embedded_node):
            if node.any_processes_alive():
                machines.cluster.kill(node)

    when(lambda: statuses(tmp_path) and running(machines.embedded), kill_all)
    with pytest.raises(EngineUnavailableError, match=r"is gone: .*run the same command again to go on"):
        grade(fleet, tmp_path, instances, predictions)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*/*.json")}
    assert 1 <= len(kept) < 5
    summary = evaluate(instances, predictions, EvaluationConfig(output=tmp_path), engine=machines.embedded)
    assert summary.num_resolved == 5
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    until_gone(machines.embedded)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(os.environ, "RAY_USAGE_STATS_ENABLED", "0")
    with pytest.raises(MissingExtraError, match=r"pip install 'srl-swe\[fleet\]'"):
        RayNodes(RayConfig(address="auto"))
