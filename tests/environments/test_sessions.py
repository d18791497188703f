"""Containers opened ahead of their episodes: quick to take, never used twice, never left behind."""

import os
import time
from collections.abc import Iterator

import pytest

from srl_swe.environments import sessions
from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.preparation import find_prepared
from srl_swe.environments.sessions import Session, WarmPool, open_session
from srl_swe.environments.worktree import WorkTreeBase
from srl_swe.errors import ContainerError
from srl_swe.types import InstanceEnvironment
from tests.environments.conftest import make_image, remove_prepared

pytestmark = pytest.mark.docker
IMAGES = ("srl-swe/test-sessions:a", "srl-swe/test-sessions:b")
LIMITS = ContainerLimits(memory_bytes=128 << 20)


@pytest.fixture(scope="module")
def environments(engine: Engine) -> Iterator[list[InstanceEnvironment]]:
    for image in IMAGES:
        make_image(engine, image)
    yield [InstanceEnvironment(image=image, workdir="/repo") for image in IMAGES]
    for image in IMAGES:
        remove_prepared(engine, image)


@pytest.fixture
def pool(engine: Engine) -> Iterator[WarmPool]:
    pool = WarmPool(engine, LIMITS, max_per_image=2, max_total=3)
    yield pool
    pool.close()
    assert _names(engine) == []


def _names(engine: Engine) -> list[str]:
    return [row.id for row in engine.list_containers(f"srl_swe.pid={os.getpid()}") if "tests" not in row.id]


def _await(engine: Engine, number: int) -> list[str]:
    deadline = time.monotonic() + 20
    while len(names := _names(engine)) != number and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(names) == number
    time.sleep(0.3)  # the shell opens after the container
    return names


def test_what_waits_is_taken_and_never_twice(
    pool: WarmPool, engine: Engine, environments: list[InstanceEnvironment]
) -> None:
    pool.expect(environments[0])
    waiting = _await(engine, 2)
    sessions = [pool.take(environments[0]) for _ in range(3)]
    names = [session.container.name for session in sessions]
    assert set(waiting) == set(names[:2]) and len(set(names)) == 3
    for session in sessions:
        pool.discard(session)


def test_the_pool_is_bounded_and_drops_what_was_expected_first(
    pool: WarmPool, engine: Engine, environments: list[InstanceEnvironment]
) -> None:
    pool.expect(environments[0])
    pool.expect(environments[0])
    first = _await(engine, 2)
    pool.expect(environments[1])
    deadline = time.monotonic() + 20
    while len(set(first) & set(_names(engine))) != 1 and time.monotonic() < deadline:
        time.sleep(0.02)  # two are opened before the surplus one is closed
    kept = _await(engine, 3)
    assert len(set(first) & set(kept)) == 1


def test_a_session_that_died_while_it_waited_is_passed_over(
    pool: WarmPool, engine: Engine, environments: list[InstanceEnvironment]
) -> None:
    pool.expect(environments[0])
    removed, *_ = _await(engine, 2)
    engine.remove(removed)
    session = pool.take(environments[0])
    assert session.container.name != removed and session.is_usable()
    pool.discard(session)


def test_a_used_session_comes_back_as_new_where_the_engine_can_rewind(
    engine: Engine, environments: list[InstanceEnvironment]
) -> None:
    pool = WarmPool(engine, LIMITS, max_per_image=1)
    session = pool.take(environments[0])
    name = session.container.name
    session.shell.run("echo x >/repo/x; rm -rf /etc; export X=1; sleep 600 &", timeout_s=10)
    pool.discard(session, again=True)
    time.sleep(1)  # for the thread in the background
    again = pool.take(environments[0])
    assert (again.container.name == name) == engine.name.startswith("embedded")
    assert again.shell.run("ls /repo; echo $X; ls -d /etc; pgrep sleep", timeout_s=10).output == "\n/etc\n"
    pool.discard(again)
    pool.close()
    assert _names(engine) == []


def test_closing_in_the_middle_leaves_nothing(engine: Engine, environments: list[InstanceEnvironment]) -> None:
    for delay_s in (0.0, 0.05, 0.15, 0.3):
        pool = WarmPool(engine, LIMITS, max_per_image=3)
        pool.expect(environments[0])
        time.sleep(delay_s)
        pool.close()
        assert _names(engine) == []


def test_what_cannot_be_opened_ahead_fails_when_it_is_taken(pool: WarmPool) -> None:
    missing = InstanceEnvironment(image="localhost:9/srl-swe/none:1")
    pool.expect(missing)
    with pytest.raises(ContainerError, match="docker pull"):
        pool.take(missing)


def test_a_container_that_fails_is_replaced_once(
    engine: Engine, environments: list[InstanceEnvironment], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = ["once"]

    def enter(container: Container, environment: InstanceEnvironment, base: WorkTreeBase) -> Session:
        if failures:
            raise ContainerError(failures.pop())
        return original(container, environment, base)

    original = sessions.enter
    monkeypatch.setattr(sessions, "enter", enter)
    open_session(engine, environments[0], limits=LIMITS, keep_prepared=True).close()
    failures += ["twice", "and again"]
    with pytest.raises(ContainerError, match="twice"):
        open_session(engine, environments[0], limits=LIMITS, keep_prepared=True)
    assert _names(engine) == []


def test_a_prepared_image_is_kept_only_where_it_will_be_used(
    engine: Engine, environments: list[InstanceEnvironment]
) -> None:
    remove_prepared(engine, IMAGES[1])
    make_image(engine, IMAGES[1])
    once = open_session(engine, environments[1], limits=LIMITS, keep_prepared=False)
    once.close()
    assert find_prepared(engine, environments[1], "0:0") is None
    again = open_session(engine, environments[1], limits=LIMITS, keep_prepared=True)
    prepared = find_prepared(engine, environments[1], "0:0")
    assert prepared is not None and prepared.base == again.base == once.base
    assert again.shell.run("command -v edit submit; pwd", timeout_s=10).output.endswith("/repo\n")
    again.close()
