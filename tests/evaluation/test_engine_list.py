"""Engines by their addresses, one of which goes away in the middle."""

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from srl_swe.environments.docker_engine import DockerEngine
from srl_swe.environments.engine import Engine
from srl_swe.errors import ConfigError, EngineUnavailableError
from srl_swe.evaluation import places
from srl_swe.evaluation.controls import gold_predictions
from srl_swe.evaluation.engine_list import EngineList
from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate_on
from tests.environments.relays import Relay
from tests.evaluation.conftest import TINY_IMAGE, own_containers, slow, tiny_instances

SOCKET = Path("/var/run/docker.sock")


@pytest.mark.parametrize(
    ("addresses", "what"),
    [
        ([], "there is no address"),
        (["docker"], "'docker' is no address of an engine; expected unix:///SOCKET"),
        (["tcp://host"], "'tcp://host' is no address"),
        (["ssh://-oProxyCommand=x"], "is no address"),
        (["tcp://a:1", "tcp://a:1"], "tcp://a:1 is there twice"),
    ],
)
def test_what_is_no_list_of_engines_is_refused(addresses: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what.replace("'", ".")):
        EngineList(addresses)


def test_an_engine_that_does_not_answer_is_told_and_not_asked_again_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = EngineList(["tcp://127.0.0.1:9"])
    assert engines.open_places() == []
    assert "tcp://127.0.0.1:9 does not take part" in caplog.text
    caplog.clear()
    assert engines.open_places() == []
    assert caplog.text == ""
    monkeypatch.setattr(places, "_AGAIN_S", 0.0)
    assert engines.open_places() == []
    assert "does not take part" in caplog.text


@pytest.fixture
def relays(tiny_engine: Engine) -> Iterator[tuple[Relay, Relay]]:
    assert isinstance(tiny_engine, DockerEngine)
    assert SOCKET.is_socket(), f"{SOCKET} is not the engine's socket"
    pair = Relay(str(SOCKET)), Relay(str(SOCKET))
    yield pair
    for relay in pair:
        relay.cut()
    for container in own_containers(tiny_engine):
        tiny_engine.remove(container)  # both ways to them are gone; a later start of the program would remove them


@pytest.mark.docker
def test_an_engine_that_comes_back_is_found(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    engines = EngineList([address])
    assert engines.open_places() == []
    relay = Relay(str(SOCKET), port=port)
    try:
        monkeypatch.setattr(places, "_AGAIN_S", 0.0)
        assert engines.open_places([address]) == []
        (place,) = engines.open_places()
        assert place.find_images([TINY_IMAGE, "no/such:1"]).keys() == {TINY_IMAGE}
        place.close()
    finally:
        relay.cut()


@pytest.mark.docker
def test_an_engine_dies_and_another_one_goes_on(
    tmp_path: Path, tiny_engine: Engine, relays: tuple[Relay, Relay]
) -> None:
    first, second = relays
    instances = [slow(instance, 0.5) for instance in tiny_instances(5)]
    predictions = gold_predictions(instances)
    engines = EngineList([f"tcp://127.0.0.1:{first.port}", f"tcp://127.0.0.1:{second.port}"])
    output = io.StringIO()
    config = EvaluationConfig(output=tmp_path)

    def results() -> list[Path]:
        return sorted((tmp_path / "results").glob("*/*.json"))

    def cut_after(count: int, relay: Relay) -> None:
        deadline = time.monotonic() + 60
        while len(results()) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        relay.cut()

    with Fleet(engines.open_places(), find_more=engines.open_places) as fleet:
        assert len(fleet.places) == 2
        threading.Thread(target=cut_after, args=(1, first), daemon=True).start()
        summary = evaluate_on(fleet, instances, predictions, config, console=Console(file=output, width=300))
        assert (summary.num_resolved, summary.invalid) == (5, {})
        assert [place.name for place in fleet.places] == [f"tcp://127.0.0.1:{second.port}"]
        assert len(results()) == 5
        # The same folder, graded anew: now the last engine goes away too.
        threading.Thread(target=cut_after, args=(0, second), daemon=True).start()
        with pytest.raises(EngineUnavailableError, match=r"tcp://127.0.0.1:\d+: .*run the same command again"):
            evaluate_on(
                fleet,
                instances,
                predictions,
                EvaluationConfig(output=tmp_path, regrade=True),
                console=Console(file=output, width=300),
            )
        assert json.loads((tmp_path / "summary.json").read_text())["num_pending"] > 0
