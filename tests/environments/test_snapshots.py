"""Snapshots, restoring and forks: the same files, one's own future, and nothing left behind."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from gymnasium.error import ResetNeeded

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import LABEL, collect_garbage
from srl_swe.environments.swe_env import SWEEnv
from srl_swe.errors import ConfigError, ContainerError
from srl_swe.types import Instance
from tests.environments.conftest import make_image, plain_instance, remove_prepared
from tests.environments.engines import variables_of

pytestmark = pytest.mark.docker
IMAGE = "srl-swe/test-snapshots:latest"
SETUP = """
set -e
mkdir /repo && cd /repo && git init -q && echo 'x = 1' >code.py && mkdir doomed && echo y >doomed/file && git add -A
git -c user.name=a -c user.email=a@b commit -qm base
"""
CHANGES = """
echo 'x = 2' >code.py; rm -r doomed; mkdir -p 'new folder/deep'; printf '\\0\\377' >'new folder/deep/bin'
chmod 751 code.py
ln -s code.py link; ln code.py hard; touch -d 2001-02-03 old; echo outside >/etc/outside; echo t >/tmp/t; git add -A
echo staged >staged; git add staged; cd 'new folder'; export LOST=1
"""
LOOK = """
cd /repo; cat code.py /etc/outside /tmp/t; ls -d doomed; stat -c '%a %h %N' code.py link hard; stat -c %Y old
od -c 'new folder/deep/bin'; git status --porcelain; git diff HEAD | sha256sum
"""


@pytest.fixture(scope="module")
def instance(engine: Engine) -> Iterator[Instance]:
    make_image(engine, IMAGE, SETUP)
    yield plain_instance(IMAGE, activate="export READY=1")
    remove_prepared(engine, IMAGE)


@pytest.fixture
def env(engine: Engine, instance: Instance) -> Iterator[SWEEnv]:
    before = _own(engine)
    env = SWEEnv([instance], engine=engine, grade=False, max_steps=20)
    env.reset()
    yield env
    env.close()
    assert engine.list_images(f"{LABEL}=snapshot") == []
    assert _own(engine) == before


def _own(engine: Engine) -> set[str]:
    return {row.id for row in engine.list_containers(f"srl_swe.pid={os.getpid()}")}


def test_a_snapshot_holds_every_file_and_the_working_directory(env: SWEEnv) -> None:
    env.step(CHANGES)
    with env.snapshot() as snapshot:
        expected = env.step(LOOK)[0]
        env.step("rm -rf /repo /etc/outside; cd /")
        observation, info = env.restore(snapshot)
        assert (observation, info["workdir"]) == (snapshot.observation, "/repo/new folder")
        assert env.step('pwd; echo "$READY $LOST"')[0] == "/repo/new folder\n1 \n"
        assert env.step(LOOK)[0] == expected
    patch = env.step("submit")[4]["patch"]
    assert "+x = 2" in patch and "staged" in patch and "outside" not in patch


def test_an_episode_goes_on_beside_its_snapshot(env: SWEEnv) -> None:
    env.step("kept=1; (while :; do echo tick; sleep 0.05; done) >/tmp/ticks & cd /tmp")
    with env.snapshot():
        observation = env.step(
            "before=$(wc -l <ticks); sleep 0.5; after=$(wc -l <ticks); pwd; echo $kept $((after > before))"
        )[0]
    assert observation == "/tmp\n1 1\n"


def test_forks_share_a_past_and_no_future(env: SWEEnv) -> None:
    env.step("echo common >>code.py; cd doomed")
    forks = env.fork(3)
    try:
        for number, fork in enumerate(forks):
            assert fork.step(f"pwd; echo {number} >>../code.py; tail -n 2 ../code.py")[0] == (
                f"/repo/doomed\ncommon\n{number}\n"
            )
        assert env.step("tail -n 1 ../code.py")[0] == "common\n"
        patches = [fork.step("submit")[4]["patch"] for fork in forks]
        assert [f"+{number}\n" in patch for number, patch in enumerate(patches)] == [True] * 3
        assert len(set(patches)) == 3
    finally:
        for fork in forks:
            fork.close()


def test_a_fork_counts_on_and_may_fork_again(env: SWEEnv) -> None:
    for _ in range(17):
        env.step("true")
    (fork,) = env.fork(1)
    (grandchild,) = fork.fork(1)
    try:
        assert grandchild.step("true")[3] is False
        assert grandchild.step("true")[3] is False
        _, _, _, truncated, info = grandchild.step("true")
        assert truncated and info["patch"] == ""
        fork.close()
        assert fork.reset()[0] == "x should be 2"
    finally:
        grandchild.close()
        fork.close()


def test_misuse_says_so(env: SWEEnv) -> None:
    snapshot = env.snapshot()
    snapshot.close()
    snapshot.close()
    with pytest.raises(ContainerError, match="closed"):
        env.restore(snapshot)
    with pytest.raises(ResetNeeded):
        env.snapshot()
    env.reset()
    with pytest.raises(ConfigError, match="at least 1"):
        env.fork(0)


def test_a_failing_fork_leaves_nothing(env: SWEEnv, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def start(*arguments: object, **options: object) -> Container:
        started.append(1)
        if len(started) == 2:
            raise ContainerError("no more room")
        return original(*arguments, **options)  # type: ignore[arg-type]

    original = Container.start
    monkeypatch.setattr(Container, "start", start)
    with pytest.raises(ContainerError, match="no more room"):
        env.fork(3)
    monkeypatch.undo()
    assert env.container is not None
    named = {row.id for row in engine.list_containers(f"srl_swe.pid={os.getpid()}") if "-one-" in row.id}
    assert named == {env.container.name}
    assert env.step("echo on")[0] == "on\n"


OWNER = """
import pickle, sys, time
from srl_swe.environments.swe_env import SWEEnv
env = SWEEnv([pickle.load(sys.stdin.buffer)], grade=False)
env.reset()
env.step("echo more >>code.py")
snapshot = env.snapshot()
forks = env.fork(2)
print(snapshot.files.image, flush=True)
time.sleep(600)
"""


def test_what_a_killed_owner_left_is_collected(engine: Engine, instance: Instance) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables_of(engine)
    )
    assert owner.stdin and owner.stdout
    owner.stdin.write(pickle.dumps(instance))
    owner.stdin.close()
    image = owner.stdout.readline().decode().strip()
    assert engine.find_image(image) is not None
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    removed = collect_garbage(engine)
    assert len(removed) >= 5  # the episode, two forks, at least one that was warm, a snapshot
    assert engine.find_image(image) is None
    mine = [row for row in engine.list_containers(LABEL) if row.labels["srl_swe.pid"] == str(owner.pid)]
    assert mine == [] and engine.list_images(f"{LABEL}=snapshot") == []
