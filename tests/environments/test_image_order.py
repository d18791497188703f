"""Order and forecasts, by numbers worked out by hand."""

from srl_swe.environments.engine import ImageLayer
from srl_swe.environments.image_order import Room, by_shared_layers, forecast
from srl_swe.environments.task_images import ImageSize, TaskImage, union_bytes
from srl_swe.types import InstanceEnvironment


def image(name: str) -> TaskImage:
    return TaskImage(environment=InstanceEnvironment(image=name), instance_ids=(name,), repo="a/b")


def size(**layers: int) -> ImageSize:
    own = tuple(ImageLayer(key=key, size_bytes=count) for key, count in layers.items())
    return ImageSize(layers=own, known_from="engine", download_bytes={})


# Two families on one base of 100: x with 30 more, y with 50 more.
SIZES = {
    "x1": size(base=100, x=30, x1=1),
    "y1": size(base=100, y=50, y1=2),
    "x2": size(base=100, x=30, x2=3),
    "z": size(z=7),
    "y2": size(base=100, y=50, y2=4),
}
IMAGES = [image(name) for name in SIZES]
ORDER = ["x1", "x2", "y1", "y2", "z"]


def test_images_with_common_layers_follow_each_other_in_the_order_given() -> None:
    assert [each.name for each in by_shared_layers(IMAGES, SIZES)] == ORDER
    backwards = [each.name for each in by_shared_layers(IMAGES[::-1], SIZES)]
    assert backwards == ["y2", "y1", "x2", "x1", "z"]


def test_a_layer_counts_once() -> None:
    assert union_bytes(SIZES.values()) == 100 + 30 + 50 + 1 + 2 + 3 + 4 + 7
    room = Room()
    for name in ("x1", "y1"):
        room.put(name, SIZES[name].layers, measured=True)
    assert room.used_bytes == 100 + 30 + 1 + 50 + 2
    assert room.more_bytes(SIZES["x2"].layers) == 3
    assert room.take("x1") == 30 + 1
    assert room.take("x1") == 0
    assert room.take("y1") == 100 + 50 + 2
    assert room.used_bytes == 0


def test_what_was_measured_counts_before_what_was_estimated() -> None:
    room = Room()
    room.put("a", size(base=300, a=30).layers, measured=False)
    room.put("b", size(base=300, b=30).layers, measured=False)
    room.put("a", size(base=100, a=10).layers, measured=True)
    assert room.used_bytes == 100 + 10 + 30
    room.take("a")
    room.take("b")
    assert room.used_bytes == 0
    assert room.more_bytes(size(base=300, c=30).layers) == 100 + 30


def test_the_highest_use_is_foreseen() -> None:
    ordered = by_shared_layers(IMAGES, SIZES)

    def foreseen(
        budget: int | None, at_once: int, here: tuple[str, ...] = (), staying: tuple[str, ...] = ()
    ) -> tuple[int, int, int]:
        found = forecast(ordered, SIZES, here=here, staying=staying, budget_bytes=budget, at_once=at_once)
        return found.peak_bytes, found.num_evictions, found.num_fetched

    assert foreseen(None, 1) == (197, 0, 5)
    # x1, x2: 134. With y1 186, so both go, the base with them: 152; y2: 156; z: 163.
    assert foreseen(170, 1) == (163, 2, 5)
    # The same with two in use at once, but z does not fit beside y1 and y2, nor beside y2 alone (161).
    assert foreseen(160, 2) == (156, 4, 5)
    # More is here than may be: z and y2 go before work begins, and come again when x1 and x2 have gone.
    assert foreseen(188, 1, here=tuple(SIZES)) == (186, 4, 2)
    # z stays throughout.
    assert foreseen(170, 1, here=("x1", "z"), staying=("z",)) == (163, 2, 3)
