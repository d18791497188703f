"""Faults of images, each made on purpose."""

from dataclasses import replace

import pytest

from srl_swe.environments.container import Container
from srl_swe.environments.image_checks import check_image
from srl_swe.types import Instance
from tests.environments.conftest import BASE_IMAGE, EMPTY_REPOSITORY, make_image, plain_instance
from tests.environments.image_world import ImageWorld, instance_of

pytestmark = pytest.mark.docker

IMAGE = "srl-swe/test-checks:1"
ACTIVATE = "source /opt/miniconda3/bin/activate\nconda activate testbed"


def faults(world: ImageWorld, *instances: Instance) -> list[tuple[str, str]]:
    return [(fault.instance_id, fault.what) for fault in check_image(world.engine, world.ledger, list(instances))]


def test_what_an_image_lacks_is_named(world: ImageWorld) -> None:
    make_image(world.engine, IMAGE, f"{EMPTY_REPOSITORY}; rm /usr/bin/patch")
    try:
        with Container.start(world.engine, IMAGE) as container:
            head = container.execute(["git", "-C", "/repo", "rev-parse", "HEAD"]).output.strip()
        plain = plain_instance(IMAGE)
        conda = replace(plain.environment, activate=ACTIVATE)
        elsewhere = replace(plain.environment, workdir="/testbed", activate="false")
        found = faults(
            world,
            replace(plain, instance_id="good", base_commit=head),
            replace(plain, instance_id="lost", base_commit="1" * 40),
            replace(plain, instance_id="conda", environment=conda),
            replace(plain, instance_id="elsewhere", environment=elsewhere),
        )
        *named, (broken, why) = found
        assert named == [
            ("", "the program patch is missing"),
            ("lost", f"HEAD of /repo ({head}) does not contain the base commit {'1' * 40}"),
            ("conda", "/opt/miniconda3/bin/activate is missing, and the evaluation script sources it"),
            ("elsewhere", "/testbed is missing"),
        ]
        assert broken == "elsewhere"
        assert why.startswith("the shell cannot be set up as the evaluation script does (")
    finally:
        world.engine.remove_image(IMAGE)


def test_an_image_that_is_not_here_or_not_the_one(world: ImageWorld) -> None:
    name = world.image("bare", ("l", 0.1))
    assert "it is not in the engine" in faults(world, instance_of(name))[0][1]
    world.engine.pull_image(name)
    world.ledger.note_pulled(name, digest="sha256:1", image_id="sha256:2")
    replaced, no_bash = (what for _, what in faults(world, instance_of(name)))
    assert "it was replaced" in replaced
    assert "sha256:2" in replaced
    assert "/bin/bash does not start" in no_bash
    assert BASE_IMAGE not in no_bash
