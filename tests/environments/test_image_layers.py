"""What engines say of the layers of their images."""

import pytest

from srl_swe.environments.engine import Engine
from srl_swe.environments.image_references import canonical
from tests.environments.conftest import BASE_IMAGE, make_image

IMAGE = "srl-swe/test-layers:1"


def test_layers_are_shared_and_have_their_bytes(engine: Engine) -> None:
    make_image(engine, IMAGE, "head -c 1000000 /dev/zero >/noughts")
    try:
        below, layers = engine.image_layers(BASE_IMAGE), engine.image_layers(IMAGE)
        assert layers[: len(below)] == below
        assert 1_000_000 <= sum(layer.size_bytes for layer in layers[len(below) :]) < 1_200_000
        info = engine.find_image(IMAGE)
        assert info is not None
        # Podman counts the folders of layers in their image's size, and not in the layers'.
        assert sum(layer.size_bytes for layer in layers) == pytest.approx(info.size_bytes, rel=0.01)
        assert [canonical(name) for name in info.names] == [canonical(IMAGE)]
        assert info.id in {image.id for image in engine.all_images()}
        assert engine.image_layers(info.id) == layers
    finally:
        engine.remove_image(IMAGE)
    assert engine.image_layers(IMAGE) == ()
