"""Episodes at several engines, one of which goes away in the middle."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from srl_swe.cli.eval.evaluate import run as run_eval
from srl_swe.environments.docker_engine import DockerEngine
from srl_swe.environments.engine import Engine
from srl_swe.errors import ContainerError, EngineUnavailableError
from srl_swe.evaluation.acting import ActingEnvironment
from srl_swe.evaluation.acting_places import ActingPlaces
from srl_swe.evaluation.agent_config import AgentConfig
from srl_swe.evaluation.engine_list import EngineList
from srl_swe.evaluation.episode_environments import TimeLimits
from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.independent import IndependentEpisodes
from srl_swe.evaluation.record import read_record
from srl_swe.evaluation.spending import SpendingAccount
from srl_swe.types import Instance
from tests.environments.relays import Relay
from tests.evaluation.conftest import TINY_IMAGE, own_containers, tiny_instances, write_rows

pytestmark = pytest.mark.docker
SOCKET = "/var/run/docker.sock"
LIMITS = TimeLimits(command_timeout_s=20, episode_limit_s=600)
FIX = "sed -i 's/a - b/a + b/' calc.py"
AGENT = f"""\
class Agent:
    def act(self, environment):
        environment.run({FIX!r})
"""


@pytest.fixture
def relays(tiny_engine: Engine) -> Iterator[tuple[Relay, Relay]]:
    assert isinstance(tiny_engine, DockerEngine)
    pair = Relay(SOCKET), Relay(SOCKET)
    yield pair
    for relay in pair:
        relay.cut()
    for container in own_containers(tiny_engine):
        tiny_engine.remove(container)  # the way to them is gone; a later start of the program would remove them


@pytest.fixture
def fleet(relays: tuple[Relay, Relay]) -> Iterator[Fleet]:
    engines = EngineList([f"tcp://127.0.0.1:{relay.port}" for relay in relays])
    with Fleet(engines.open_places(), find_more=engines.open_places) as fleet:
        yield fleet


def test_an_episode_goes_where_its_image_is_and_where_few_act(fleet: Fleet) -> None:
    first, second = fleet.places
    instances = tiny_instances(4)
    places = ActingPlaces(fleet, max_parallel=2)
    assert places.num_at_once == 4
    chosen: list[str] = []
    fleet.expect_images(second, [TINY_IMAGE])

    def choose() -> str:
        place = places._choose(fleet, instances[0])
        chosen.append(place.name)
        return place.name

    # As many as there may be where the image is, then at the other one.
    assert [choose() for _ in range(4)] == [second.name, second.name, first.name, first.name]
    places._acting.clear()
    fleet.lose(second, "gone")
    assert choose() == first.name
    fleet.lose(first, "gone")
    with pytest.raises(EngineUnavailableError, match="gone"), places.opened(instances[0], LIMITS):
        pass


def test_what_fails_at_a_place_goes_to_another_one_and_too_much_of_it_ends_the_place(fleet: Fleet) -> None:
    """It answers, but starts nothing, as with a full disk: always the place where the fewest act."""
    places = ActingPlaces(fleet, max_parallel=2)
    broken, fine = fleet.places

    def play(instance: Instance) -> str:
        place = places._choose(fleet, instance)
        places._acting[place.name] -= 1
        with places.opened(instance, LIMITS):
            if place is broken:
                raise EngineUnavailableError("broken")
        return place.name

    for instance in tiny_instances(3):
        fleet.forget_images(fine, [TINY_IMAGE])
        with pytest.raises(ContainerError, match=r"at tcp://.*: broken"):
            play(instance)
        assert broken in fleet.places
        assert play(instance) == fine.name
    assert fleet.places == (fine,)
    assert not any(places._acting.values())


def test_an_engine_dies_and_its_episodes_are_played_at_another_one(
    fleet: Fleet, relays: tuple[Relay, Relay], tmp_path: Path
) -> None:
    at_work: dict[str, int] = {}
    cut = threading.Event()

    class Acts:
        def act(self, environment: ActingEnvironment) -> None:
            at_work[environment.instance_id] = at_work.get(environment.instance_id, 0) + 1
            environment.run(FIX)
            deadline = time.monotonic() + 60
            while len(at_work) < 4 and time.monotonic() < deadline:
                time.sleep(0.05)
            if not cut.is_set():
                cut.set()
                relays[0].cut()
            environment.run("true")

    config = AgentConfig(command_timeout_s=20.0, max_parallel=4)
    episodes = IndependentEpisodes(Acts, model_name="class", config=config, account=SpendingAccount(), fleet=fleet)
    outcome = episodes.run(tiny_instances(4), tmp_path)
    assert outcome.invalid == {}
    assert len(outcome.predictions) == 4
    assert all("+    return a + b" in prediction.model_patch for prediction in outcome.predictions)
    assert sorted(at_work.values()) == [1, 1, 2, 2], "half of them had been at the engine that went away"
    assert [place.name for place in fleet.places] == [f"tcp://127.0.0.1:{relays[1].port}"]


def test_the_command_acts_and_grades_at_the_engines_that_it_is_given(
    relays: tuple[Relay, Relay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", tiny_instances(3))
    (tmp_path / "fixes.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    # The engine of this machine, as far as this process knows, is not there.
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    addresses = ",".join(f"tcp://127.0.0.1:{relay.port}" for relay in relays)
    command = ["--instances", str(rows), "--agent", "fixes:Agent", "--output", "out", "--engines", addresses]
    assert run_eval(command) == 0
    assert [each.outcome for each in read_record(tmp_path / "out").instances] == ["resolved"] * 3
