"""Pulls from a registry that refuses, breaks off, lies, and is a mirror; kills in the middle of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srl_swe.environments.engine import PullProgress
from srl_swe.environments.image_eviction import ImageEviction
from srl_swe.environments.image_pulls import DEFAULT_PULLS, ImagePuller, PullConfig
from srl_swe.environments.image_uses import using_images
from srl_swe.environments.registry import Registries
from srl_swe.environments.task_images import TaskImage
from srl_swe.errors import ImageError, PullThrottledError
from srl_swe.types import InstanceEnvironment
from tests.environments.image_world import ImageWorld

pytestmark = pytest.mark.docker

PULL = """\
import sys
from srl_swe.environments.connect import connect_engine
from srl_swe.environments.image_pulls import ImagePuller
with connect_engine(collect=False) as engine:
    print("pulling", flush=True)
    ImagePuller(engine).ensure(sys.argv[1])
"""


def evict(world: ImageWorld, name: str, config: PullConfig = DEFAULT_PULLS) -> str:
    """Remove an image; return why it stays, "" where it is gone."""
    image = TaskImage(environment=InstanceEnvironment(image=name), instance_ids=(), repo="")
    outcome = ImageEviction(world.engine, world.ledger, config, Registries()).evict(image)
    assert outcome.removed == (world.here([name]) == set())
    return outcome.why_not


def test_a_pulled_image_is_known_by_its_digest_and_comes_back(world: ImageWorld) -> None:
    name = world.image("a", ("low", 0.3), ("high", 0.1))
    seen: list[PullProgress] = []
    puller = ImagePuller(world.engine)
    assert puller.ensure(name, progress=seen.append)
    assert not puller.ensure(name)
    record, image = world.ledger.find(name), world.engine.find_image(name)
    assert image is not None
    assert record.image_id == image.id
    assert [f"{world.registry.host}/t/a@{record.digest}"] == list(image.digests)
    assert [layer.size_bytes for layer in record.layers] == [300_000, 100_000]
    assert seen[-1].done_bytes == seen[-1].total_bytes
    with using_images(name):
        assert "a process uses it" in evict(world, name)
    assert evict(world, name) == ""
    assert puller.ensure(name)
    by_digest = f"{world.registry.host}/t/a@{record.digest}"
    assert evict(world, name) == ""
    assert puller.ensure(by_digest)
    assert evict(world, by_digest) == ""
    assert puller.ensure(name)
    # What the registry serves by this name has changed: what would come back is another image.
    world.image("a", ("other", 0.1))
    assert "does not serve" in evict(world, name)


def test_a_registry_that_asks_for_fewer_pulls_gets_fewer(world: ImageWorld, caplog: pytest.LogCaptureFixture) -> None:
    name = world.image("slow", ("l", 0.1))
    world.registry.throttled_until = time.monotonic() + 1.0
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        time.sleep(seconds)

    assert ImagePuller(world.engine).ensure(name, sleep=sleep)
    assert len(waits) == 1
    assert 1.0 <= waits[0] <= 2.0  # what Retry-After says
    assert "toomanyrequests" in caplog.text

    world.engine.remove_image(name)
    world.registry.throttled_until, world.registry.retry_after = time.monotonic() + 600, "7200"
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"left alone for 7200 s.*--mirror"):
        ImagePuller(world.engine).ensure(name)
    with pytest.raises(PullThrottledError):
        world.engine.pull_image(name)
    assert time.monotonic() - started < 20


def test_a_connection_that_dies_and_a_layer_that_is_not_what_it_should_be(world: ImageWorld) -> None:
    name = world.image("broken", ("l", 0.2))
    blob = next(digest for digest, content in world.registry.blobs.items() if len(content) > 100_000)
    world.registry.wrong.add(blob)
    once = ImagePuller(world.engine, PullConfig(pull_attempts=1))
    with pytest.raises(ImageError, match="verification failed"):
        once.ensure(name)
    assert world.here() == set()
    world.registry.wrong.clear()
    world.registry.cut[blob] = 1
    assert once.ensure(name)  # Docker itself asks for the rest
    assert world.registry.cut[blob] == 0


def test_what_a_registry_does_not_have_is_not_asked_for_again(world: ImageWorld) -> None:
    waits: list[float] = []
    with pytest.raises(ImageError, match="manifest unknown"):
        ImagePuller(world.engine).ensure(f"{world.registry.host}/t/none:1", sleep=waits.append)
    assert waits == []
    with pytest.raises(ImageError, match="refused"):
        ImagePuller(world.engine).ensure("127.0.0.1:9/t/none:1", sleep=waits.append)
    assert len(waits) == 1


def test_a_mirror_gives_images_their_official_names(world: ImageWorld) -> None:
    mirrored = world.image("hub/own/image", ("l", 0.1))
    official = "mirrored.example.org/own/image:1"
    world.layers[official] = world.layers[mirrored]
    config = PullConfig(mirror=f"{world.registry.host}/t/hub/")
    assert ImagePuller(world.engine, config).ensure(official)
    assert world.here() == {official}
    assert world.ledger.find(official).pulled_from == mirrored
    # The official registry is not known to have it.
    assert "now would come from" in evict(world, official)
    assert evict(world, official, config) == ""
    with pytest.raises(ImageError, match="named by its digest"):
        ImagePuller(world.engine, config).ensure(f"own/image@sha256:{'0' * 64}")


def test_kill_9_in_the_middle_of_a_pull(world: ImageWorld) -> None:
    name = world.image("killed", ("l", 0.5))
    world.registry.gate.clear()
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", PULL, name], cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
    try:
        assert world.registry.waiting.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    finally:
        process.kill()
        world.registry.gate.set()
    assert world.here() == set()
    assert ImagePuller(world.engine).ensure(name)
    assert world.ledger.find(name).image_id
    # Killed after the engine had it, before the ledger did.
    world.ledger.note_pull(name, name)
    assert not ImagePuller(world.engine).ensure(name)
    assert evict(world, name) == ""


def test_what_this_tool_did_not_pull_stays(world: ImageWorld) -> None:
    by_hand = world.image("by-hand", ("h", 0.1))
    world.engine.pull_image(by_hand)
    assert "did not pull it" in evict(world, by_hand)
    loaded = world.image("loaded", ("l", 0.1))
    # Its pull was killed; then somebody brought a build of their own under that name.
    world.ledger.note_pull(loaded, loaded)
    world.engine.client.api.import_image_from_data(  # type: ignore[attr-defined]
        world.layers[loaded][0].tar, repository=loaded.rpartition(":")[0], tag="1"
    )
    assert not ImagePuller(world.engine).ensure(loaded)
    assert "did not pull it" in evict(world, loaded)
    tagged = world.image("tagged", ("t", 0.1))
    ImagePuller(world.engine).ensure(tagged)
    world.engine.tag_image(tagged, f"{world.registry.host}/mine:1")
    try:
        assert "also called" in evict(world, tagged)
    finally:
        world.engine.remove_image(f"{world.registry.host}/mine:1")
