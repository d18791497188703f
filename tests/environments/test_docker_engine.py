"""An engine whose words arrive late and in large pieces, as they do on a busy machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from srl_swe.environments.connect import connect_engine_at
from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from tests.environments.relays import Relay

pytestmark = pytest.mark.docker
SOCKET = Path("/var/run/docker.sock")


@pytest.fixture
def slow_engine() -> Iterator[Engine]:
    assert SOCKET.is_socket(), f"{SOCKET} is not the engine's socket"
    relay = Relay(str(SOCKET), held_s=0.3)
    yield connect_engine_at(f"tcp://127.0.0.1:{relay.port}")
    relay.cut()


def test_nothing_is_lost_when_an_answer_and_the_first_output_come_in_one_piece(slow_engine: Engine) -> None:
    with Container.start(slow_engine, "srl-swe/base:bookworm") as container:
        for _ in range(3):
            result = container.execute(["sh", "-c", "echo said; exit 3"])
            assert (result.output, result.exit_code) == ("said\n", 3)
