"""An evaluation whose images do not fit on the disk together: acted on and graded, each image once."""

import io
import json
import subprocess
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
from srl_swe.environments.images import BASE_IMAGE
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


def base_layer(size_bytes: int) -> Layer:
    """Return the base image's only layer."""
    saved = subprocess.run(["docker", "save", BASE_IMAGE], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        names = json.load(archive.extractfile("manifest.json") or io.BytesIO())[0]["Layers"]
        content = archive.extractfile(names[0])
        assert content is not None
        assert len(names) == 1
        return Layer.of(content.read(), size_bytes, is_packed=False)


def work_tree(engine: Engine) -> tuple[Layer, str]:
    """Return the tiny instance's work tree as a layer, and its commit."""
    with Container.start(engine, TINY_IMAGE) as container:
        tar = container.get_archive("/testbed")
        commit = container.execute(["git", "-C", "/testbed", "rev-parse", "HEAD"]).output.strip()
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        size = sum(entry.size for entry in archive if entry.isfile())
    return Layer.of(tar, size, is_packed=False), commit


def test_acting_and_grading_within_a_budget(
    world: ImageWorld,
    tiny_engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Four images of two instances each, room for two; one image cannot be pulled."""
    image = tiny_engine.find_image(BASE_IMAGE)
    assert image is not None
    base, (tree, commit) = base_layer(image.size_bytes), work_tree(tiny_engine)
    names = []
    for number in range(4):
        layers = (base, tree, layer(f"own{number}", 10 * MB, is_packed=False))
        names.append(world.registry.put(f"t/set{number}", layers))
        world.layers[names[-1]] = layers
    lost = f"{world.registry.host}/t/lost:1"
    instances = [
        replace(TINY, instance_id=f"{number}-{image.rpartition('/')[2]}", environment=InstanceEnvironment(image=image))
        for number in range(2)
        for image in (*names, lost)
    ]
    rows = write_rows(tmp_path / "rows.jsonl", instances, base_commit=commit)
    (tmp_path / "repairs.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    # The registry says of the base what its tar takes, which is somewhat more than its files.
    budget = len(base.tar) + 18 * MB

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
    assert base.size_bytes + 20 * MB < most[0] <= budget
    outcomes = {each.instance_id: (each.outcome, each.reason) for each in read_record(tmp_path / "out").instances}
    assert sorted(outcome for outcome, _ in outcomes.values()) == ["invalid"] * 2 + ["resolved"] * 8
    assert all("manifest unknown" in outcomes[f"{number}-lost:1"][1] for number in range(2))
    said = capsys.readouterr()
    assert (said.out + said.err).count("graded: ") == 8  # behind each episode, not after all of them
    by_digest = [request for request in world.registry.requests.elements() if "/manifests/sha256:" in request]
    assert len(by_digest) == len(set(by_digest)) == 4  # each image came once
    assert own_containers(tiny_engine) == set()
    assert len(world.here()) == 2

    # What is here is good; what is not, is said.
    assert run_images(["verify", "--instances", str(rows)]) == 1
    said = capsys.readouterr()
    assert "2 of 5 images are good, 3 have faults" in said.out
    assert run_images(["gc", "--disk-budget", "1MB"]) == 0
    assert world.here() == set()
