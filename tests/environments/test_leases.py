"""Containers of dead owners go, those of live ones stay."""

import os
import signal
import subprocess
import sys

import pytest

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.images import PARENT_LABEL
from srl_swe.environments.leases import collect_garbage, is_abandoned, owner_labels
from srl_swe.environments.preparation import PREPARED_LABEL, collect_prepared, tools_digest

IMAGE = "srl-swe/base:bookworm"
OWNER = f"""
import time
from srl_swe.environments.container import Container
from srl_swe.environments.connect import connect_engine
print(Container.start(connect_engine(), {IMAGE!r}, name_hint="owner").name, flush=True)
time.sleep({{}})
"""


def _exists(engine: Engine, container_id: str) -> bool:
    return any(row.id == container_id for row in engine.list_containers("srl_swe"))


def test_own_containers_are_not_abandoned() -> None:
    assert not is_abandoned(owner_labels(), running=True)
    assert not is_abandoned(owner_labels(), running=False)


def test_a_recycled_process_id_is_another_process() -> None:
    labels = owner_labels()
    assert is_abandoned({**labels, "srl_swe.start_time": "1"}, running=True)


def test_a_dead_process_and_a_zombie_are_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    labels = {**owner_labels(), "srl_swe.pid": str(child.pid)}
    assert is_abandoned(labels, running=True)
    child.wait()
    assert is_abandoned(labels, running=True)


@pytest.mark.parametrize("label", ["srl_swe.host", "srl_swe.pid_namespace"])
def test_what_cannot_be_judged_from_here_stays(label: str) -> None:
    labels = {**owner_labels(), "srl_swe.start_time": "1", label: "elsewhere"}
    assert not is_abandoned(labels, running=True)


def test_after_a_reboot_only_what_does_not_run_is_abandoned() -> None:
    labels = {**owner_labels(), "srl_swe.boot_id": "an earlier one"}
    assert is_abandoned(labels, running=False)
    assert not is_abandoned(labels, running=True)


def test_strangers_are_never_touched() -> None:
    assert not is_abandoned({}, running=False)
    assert not is_abandoned({"srl_swe": "1"}, running=False)


@pytest.mark.docker
def test_only_the_container_of_a_killed_owner_is_removed(engine: Engine, container: Container) -> None:
    owners = [
        subprocess.Popen([sys.executable, "-c", OWNER.format(600)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        killed_id, live_id = (str(owner.stdout.readline()).strip() for owner in owners if owner.stdout)
        owners[0].send_signal(signal.SIGKILL)
        owners[0].wait()
        assert _exists(engine, killed_id) and _exists(engine, live_id)
        removed = collect_garbage(engine)
        assert killed_id in removed and live_id not in removed and container.name not in removed
        assert not _exists(engine, killed_id)
        assert _exists(engine, live_id) and container.is_running()
    finally:
        for owner in owners:
            owner.kill()
            owner.communicate()
    assert live_id in collect_garbage(engine)


@pytest.mark.docker
def test_a_normal_exit_closes_what_is_open(engine: Engine) -> None:
    owner = subprocess.run(
        [sys.executable, "-c", OWNER.format(0)], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    assert owner.stdout.strip() and not _exists(engine, owner.stdout.strip())


@pytest.mark.docker
def test_prepared_images_that_nothing_can_use_are_removed(engine: Engine) -> None:
    with Container.start(engine, IMAGE) as container:
        for name, digest, parent in (
            ("old", "another", "srl-swe/base:bookworm"),
            ("orphan", tools_digest(), "sha256:" + "0" * 64),
            ("current", tools_digest(), "srl-swe/base:bookworm"),
            ("snapshot", "", ""),
        ):
            labels = {PREPARED_LABEL: digest, PARENT_LABEL: parent}
            container.commit(f"srl-swe/test-prepared:{name}", labels=labels)
    collect_prepared(engine, every=False)
    left = [name for name in ("old", "orphan", "current", "snapshot") if _image(engine, name)]
    for name in left:
        engine.remove_image(f"srl-swe/test-prepared:{name}")
    assert left == ["current", "snapshot"]


def _image(engine: Engine, name: str) -> bool:
    return engine.find_image(f"srl-swe/test-prepared:{name}") is not None
