"""An evaluation whose images do not fit on the disk together: acted on and graded, each image once."""

import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.cli.eval.evaluate import run as run_eval
from srl_swe.cli.images import run as run_images
from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.evaluation.record import read_record
from srl_swe.types import InstanceEnvironment
from tests.environments.image_world import MB, ImageWorld, image_world
from tests.environments.local_registry import Layer, layer
from tests.evaluation.conftest import TINY, TINY_IMAGE, own_containers, write_rows

pytestmark = pytest.mark.docker

AGENT = """\
class Repairs:
    def act(self, environment):
        environment.run("sed -i 's/a - b/a + b/' calc.py")
"""


@pytest.fixture
def world(tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageWorld]:
    monkeypatch.setenv("SRL_SWE_CACHE", str(tmp_path / "cache"))
    with image_world(tiny_engine) as world:
        yield world


PROGRAMS = (
    "bash sh env git patch tar sed grep awk find xargs sort uniq comm cut head tail tr wc cat cp mv rm ln ls mkdir"
    " mktemp chmod chown touch stat id cmp diff dirname basename readlink realpath sha256sum base64 od tee sleep"
    " timeout true"
)
# The base image's programs that an episode and the grader need, with their libraries: 5 % of it.
MAKE_ROOT = f"""\
mkdir -p /r/usr/bin /r/etc /r/tmp /r/root /r/var/tmp && ln -s usr/bin /r/bin && cp /etc/passwd /etc/group /r/etc &&
for program in {PROGRAMS}; do cp -L "$(type -P $program)" /r/usr/bin/$program || exit; done &&
ldd /r/usr/bin/* 2>/dev/null | grep -o '/lib[^ ]*' | sort -u | xargs cp -L --parents -t /r &&
cp -r /testbed /r/testbed && tar -C /r -cf /r.tar . && git -C /testbed rev-parse HEAD
"""
SCRIPT = """\
cd /testbed
echo '>>>>> Start Test Output'
grep -q 'a + b' calc.py && echo PASSED test_calc.py::test_add || echo FAILED test_calc.py::test_add
echo PASSED test_calc.py::test_zero
echo '>>>>> End Test Output'
"""
SMALL = replace(TINY, tests=replace(TINY.tests, script=SCRIPT))


def root_layer(engine: Engine) -> tuple[Layer, str]:
    """Return a small root file system with the tiny instance's work tree as a layer, and the commit of the tree."""
    with Container.start(engine, TINY_IMAGE) as container:
        made = container.execute(["bash", "-c", MAKE_ROOT])
        assert made.exit_code == 0, made.output
        tar = container.read_file("/r.tar", max_bytes=200 * MB)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        size = sum(entry.size for entry in archive if entry.isfile())
    return Layer.of(tar, size, is_packed=False), made.output.split()[-1]


def test_acting_and_grading_within_a_budget(
    world: ImageWorld,
    tiny_engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three images, one of them of two instances; room for two; a fourth image cannot be pulled."""
    root, commit = root_layer(tiny_engine)
    names = []
    for number in range(3):
        layers = (root, layer(f"own{number}", 10 * MB, is_packed=False))
        names.append(world.registry.put(f"t/set{number}", layers))
        world.layers[names[-1]] = layers
    lost = f"{world.registry.host}/t/lost:1"
    instances = [
        replace(SMALL, instance_id=f"{number}-{image.rpartition('/')[2]}", environment=InstanceEnvironment(image=image))
        for number, image in ((0, names[0]), (0, names[1]), (1, names[0]), (0, lost), (0, names[2]))
    ]
    rows = write_rows(tmp_path / "rows.jsonl", instances, base_commit=commit)
    (tmp_path / "repairs.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    budget = len(root.tar) + 25 * MB

    most, stop = [0], threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            most[0] = max(most[0], world.used_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        words = ["--instances", str(rows), "--agent", "repairs:Repairs", "--output", str(tmp_path / "out")]
        assert run_eval([*words, "--disk-budget", str(budget), "--infrastructure-attempts", "1"]) == 1
    finally:
        stop.set()
        thread.join()
    assert root.size_bytes + 20 * MB == most[0] <= budget
    outcomes = {each.instance_id: (each.outcome, each.reason) for each in read_record(tmp_path / "out").instances}
    assert sorted(outcome for outcome, _ in outcomes.values()) == ["invalid"] + ["resolved"] * 4
    assert "manifest unknown" in outcomes["0-lost:1"][1]
    said = capsys.readouterr()
    assert (said.out + said.err).count("graded: ") == 4  # behind each episode, not after all of them
    by_digest = [request for request in world.registry.requests.elements() if "/manifests/sha256:" in request]
    assert len(by_digest) == len(set(by_digest)) == 3  # each image came once
    assert own_containers(tiny_engine) == set()
    assert len(world.here()) == 2

    assert run_images(["plan", "--instances", str(rows), "--disk-budget", str(budget), "--list-images"]) == 0
    said = capsys.readouterr()
    assert "4 images of 5 instances: 2 here, 2 missing" in said.out
    assert "answered 404" in said.out
    assert run_images(["plan", "--instances", str(rows), "--disk-budget", "1MB"]) == 1
    assert run_images(["pull", "--instances", str(rows), "--disk-budget", str(budget)]) == 1
    said = capsys.readouterr()
    assert "2 of 4 images were here, 0 came" in said.out
    assert f"MB of {budget / MB:.1f} MB" in said.out

    # What is here is good; what is not, is said.
    assert run_images(["verify", "--instances", str(rows)]) == 1
    said = capsys.readouterr()
    assert "2 of 4 images are good, 2 have faults" in said.out
    assert run_images(["gc", "--disk-budget", "1MB"]) == 0
    assert world.here() == set()
