"""Images that come and go while work goes on, and what the engine holds of them at every moment."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from srl_swe.environments.image_collection import collect_images
from srl_swe.environments.image_fetching import fetch_images
from srl_swe.environments.image_plan import plan_images
from srl_swe.environments.image_pulls import ImagePuller, PullConfig
from srl_swe.environments.image_supply import ImageSupply
from srl_swe.environments.image_uses import using_images
from srl_swe.errors import ConfigError, ImageError
from srl_swe.pool import WorkPool
from srl_swe.types import Instance
from tests.environments.image_world import MB, ImageWorld, instance_of

pytestmark = pytest.mark.docker


@contextlib.contextmanager
def highest_use(world: ImageWorld) -> Iterator[list[int]]:
    """Ask the engine all the time what it has; the list holds every answer in bytes."""
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            seen.append(world.used_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def work_on(world: ImageWorld, supply: ImageSupply, instances: Sequence[Instance], *, at_once: int) -> dict[str, str]:
    """Look at each image while it is held; return what failed."""

    def look(instance: Instance) -> None:
        with supply.fetched(instance):
            assert world.here([instance.environment.image])
            time.sleep(0.05)

    failed = {}
    pool = WorkPool(at_once)
    for instance, outcome in pool.run(supply.ordered(instances), look, limit_s=lambda _: 60, may_start=supply.admit):
        if isinstance(outcome, Exception):
            assert isinstance(outcome, ImageError), outcome
            failed[instance.instance_id] = str(outcome)
    return failed


def removed_in_order(caplog: pytest.LogCaptureFixture) -> list[str]:
    removals = [record.args for record in caplog.records if record.msg == "removed %s from the engine"]
    return [str(arguments[0]) for arguments in removals if isinstance(arguments, tuple)]


def test_the_budget_holds_at_every_moment(world: ImageWorld, caplog: pytest.LogCaptureFixture) -> None:
    """Two families of three images on a base of 2 MB, 1 MB each on top; two at once, one ahead; room for three."""
    caplog.set_level("INFO")
    names = [
        world.image(f"{family}{number}", ("base", 2), (family, 0.3), (f"{family}{number}", 1), is_packed=False)
        for number in range(3)
        for family in ("x", "y")
    ]
    instances = [instance_of(name, number) for number in range(2) for name in names]
    budget = round(6.1 * MB)
    with highest_use(world) as seen, ImageSupply(world.engine, instances, budget_bytes=budget, ahead=1) as supply:
        assert work_on(world, supply, instances, at_once=2) == {}
    assert 5 * MB < max(seen) <= budget
    pulls = [record.args for record in caplog.records if record.msg == "pulling %s"]
    assert len(pulls) == 6  # each once, though there are two instances of each and one family was named among the other
    by_family = [names[0], names[2], names[4], names[1], names[3], names[5]]
    assert removed_in_order(caplog) == by_family[: len(removed_in_order(caplog))]
    assert len(removed_in_order(caplog)) == 3


def test_local_images_stay_and_count(world: ImageWorld) -> None:
    local = world.image("local", ("local", 1), is_packed=False)
    world.engine.pull_image(local)  # not by this tool's own pull: nobody knows that it would come back
    others = [world.image(f"o{number}", (f"o{number}", 1), is_packed=False) for number in range(3)]
    instances = [instance_of(name) for name in (local, *others)]
    with pytest.raises(ConfigError, match=r"budget of 1\.5 MB: the image .*/t/o0:1 needs 2\.0 MB, with 1\.0 MB for"):
        ImageSupply(world.engine, instances, budget_bytes=round(1.5 * MB))
    with pytest.raises(ConfigError, match=r"budget of 500\.0 kB"):
        ImageSupply(world.engine, instances[:1], budget_bytes=round(0.5 * MB))
    budget = round(2.1 * MB)
    with highest_use(world) as seen, ImageSupply(world.engine, instances, budget_bytes=budget) as supply:
        assert work_on(world, supply, instances, at_once=3) == {}
    assert max(seen) <= budget
    assert local in world.here()
    assert len(world.here()) == 2


def test_sizes_that_are_only_estimated_stop_nothing_that_fits(world: ImageWorld) -> None:
    """Of packed layers three times what is downloaded is assumed: 3 MB each, where 1 MB is right."""
    instances = [instance_of(world.image(f"p{number}", (f"p{number}", 1))) for number in range(3)]
    budget = round(2.2 * MB)
    with highest_use(world) as seen, ImageSupply(world.engine, instances, budget_bytes=budget) as supply:
        assert work_on(world, supply, instances, at_once=2) == {}
    assert max(seen) <= budget


def test_only_what_work_is_left_for_comes_ahead(world: ImageWorld) -> None:
    names = [world.image(f"l{number}", (f"l{number}", 0.1)) for number in range(4)]
    instances = [instance_of(name) for name in names]
    with ImageSupply(world.engine, instances, budget_bytes=None, ahead=3) as supply:
        assert work_on(world, supply, [instances[0], instances[2]], at_once=1) == {}
    assert world.here() == {names[0], names[2]}


def test_a_pull_that_fails_fails_its_own_instances_at_once(world: ImageWorld) -> None:
    lost = f"{world.registry.host}/t/lost:1"
    good = world.image("good", ("g", 0.1))
    instances = [instance_of(name, number) for name in (lost, good) for number in range(2)]
    with ImageSupply(world.engine, instances, budget_bytes=MB) as supply:
        failed = work_on(world, supply, instances, at_once=1)
    assert failed.keys() == {instance.instance_id for instance in instances[:2]}
    assert all("manifest unknown" in reason for reason in failed.values())
    assert world.registry.requests["GET /v2/t/lost/manifests/1"] <= 3  # the size, and one pull


def test_an_image_that_turns_out_larger_than_the_budget_is_an_error_and_no_wait(world: ImageWorld) -> None:
    """Noughts: downloaded they are nothing, on disk they are 3 MB."""
    from tests.environments.local_registry import Layer, layer

    noughts = layer("n", 3 * MB)
    start = noughts.tar[:512]
    packed = Layer.of(start + bytes(len(noughts.tar) - 512), 3 * MB)
    name = world.registry.put("t/noughts", [packed])
    world.layers[name] = (packed,)
    instances = [instance_of(name)]
    with ImageSupply(world.engine, instances, budget_bytes=MB) as supply:
        failed = work_on(world, supply, instances, at_once=1)
    assert "does not fit into the disk budget" in failed[instances[0].instance_id]
    assert world.here() == set()


def test_closing_ends_what_is_being_pulled(world: ImageWorld) -> None:
    instance = instance_of(world.image("endless", ("e", 0.5)))
    world.registry.gate.clear()
    supply = ImageSupply(world.engine, [instance], budget_bytes=MB)
    assert supply.admit(instance)
    assert world.registry.waiting.wait(30)
    waiting = threading.Thread(target=supply.close)
    waiting.start()
    with pytest.raises(ImageError, match="the run ended"):
        supply.fetch(instance)
    world.registry.gate.set()
    waiting.join(30)
    assert not waiting.is_alive()


def test_the_plan_is_the_sum_of_the_layers(world: ImageWorld) -> None:
    names = [world.image(f"i{number}", ("base", 2), (f"i{number}", 0.5 + number)) for number in range(3)]
    instances = [instance_of(name, number) for number in range(2) for name in names]
    ImagePuller(world.engine).ensure(names[0])

    def planned(budget: float | None) -> tuple[int, ...]:
        found = plan_images(
            world.engine, instances, budget_bytes=None if budget is None else round(budget * MB), at_once=1
        )
        assert found.num_instances == 6
        assert found.problems == ()
        return found.num_here, found.total_bytes, found.unique_bytes, found.here_bytes, found.missing_bytes

    packed = {name: len(world.registry.blobs[digest]) for name, digest in world_layers(world, names).items()}
    estimated = 3 * (packed[names[1]] + packed[names[2]])
    num_here, _, unique, here, missing = planned(None)
    assert (num_here, here) == (1, round(2.5 * MB))
    assert missing == estimated
    assert unique == 2.5 * MB + estimated
    found = plan_images(world.engine, instances, budget_bytes=None, at_once=1)
    assert found.download_bytes == packed[names[1]] + packed[names[2]]
    for name in names:
        ImagePuller(world.engine).ensure(name)
    # Now the engine knows: 2 shared, and 0.5, 1.5, 2.5 on top.
    assert planned(None) == (3, round(10.5 * MB), round(6.5 * MB), round(6.5 * MB), 0)
    world.engine.remove_image(names[2])
    # What was measured is known also of what is gone.
    assert planned(5) == (2, round(10.5 * MB), round(6.5 * MB), 4 * MB, round(2.5 * MB))
    found = plan_images(world.engine, instances, budget_bytes=5 * MB, at_once=1)
    assert found.smallest_budget_bytes == 4.5 * MB
    assert (found.forecast.peak_bytes, found.forecast.num_fetched) == (4.5 * MB, 1)


def world_layers(world: ImageWorld, names: Sequence[str]) -> dict[str, str]:
    """Return the digest of the topmost layer of each image as it is served."""
    import json

    found = {}
    for name in names:
        repository = name.removeprefix(f"{world.registry.host}/")
        found[name] = json.loads(world.registry.manifests[repository])["layers"][-1]["digest"]
    return found


def test_fetching_stops_at_the_budget_and_goes_on_with_a_larger_one(world: ImageWorld) -> None:
    names = [world.image(f"f{number}", ("base", 1), (f"f{number}", 1), is_packed=False) for number in range(4)]
    instances = [instance_of(name) for name in names]
    first = fetch_images(world.engine, instances, budget_bytes=round(3.5 * MB))
    assert (first.num_here, first.num_fetched, first.num_failed, first.used_bytes) == (0, 2, 0, 3 * MB)
    assert set(first.left_out) == set(names[2:])
    assert "of 3.5 MB" in first.stopped_by
    second = fetch_images(world.engine, instances, budget_bytes=None, pulls=PullConfig(pulls_at_once=4))
    assert (second.num_here, second.num_fetched, second.used_bytes) == (2, 2, 5 * MB)
    assert world.used_bytes() == 5 * MB
    # More is here than a run may have: what it needs last goes before it begins.
    with ImageSupply(world.engine, instances, budget_bytes=round(3.5 * MB), ahead=0) as supply:
        assert supply.ordered(instances) == instances
        assert supply.admit(instances[0])
        assert world.here() == set(names[:2])
        supply.release(instances[0])


def test_collection_removes_what_was_used_longest_ago(world: ImageWorld) -> None:
    names = [world.image(f"c{number}", ("base", 1), (f"c{number}", 1)) for number in range(3)]
    by_hand = world.image("by-hand", ("base", 1), ("hand", 1))
    fetch_images(world.engine, [instance_of(name) for name in names], budget_bytes=None)
    world.engine.pull_image(by_hand)
    for name in (names[1], names[0], names[2]):
        with using_images(name):
            time.sleep(0.02)
    everything = [instance_of(name) for name in (*names, by_hand)]
    planned = collect_images(world.engine, everything, budget_bytes=round(2.5 * MB), dry_run=True)
    assert world.used_bytes() == 5 * MB
    done = collect_images(world.engine, everything, budget_bytes=round(2.5 * MB))
    assert done == planned
    assert done.removed == ((names[1], MB), (names[0], MB), (names[2], MB))
    assert [name for name, _ in done.kept] == [by_hand]
    assert (done.before_bytes, done.freed_bytes, world.used_bytes()) == (5 * MB, 3 * MB, 2 * MB)
    assert collect_images(world.engine, None, budget_bytes=0).before_bytes == 0
