"""Which instance a free place takes next: one whose image it has, before one whose image is nowhere yet.

Pure. Left out: what happens then (`dispatch`).
"""

from collections.abc import Collection, Mapping, Sequence

HERE, NOWHERE, ELSEWHERE = range(3)
"""How far away an image is from a place: there, still to be made or pulled, or only at another place."""


def choose(place: str, wanted: Sequence[Sequence[str]], images: Mapping[str, Collection[str]]) -> int | None:
    """Return the index of what a place takes from a queue, None where that is empty; the first of equals.

    `wanted` are the names of images that each needs, the most particular first; `images` what each place has. A place
    never stays idle: at last it takes what another one has the image of.

    >>> images = {"a": {"x"}, "b": {"y"}}
    >>> choose("a", [["y"], ["z"], ["x"]], images), choose("b", [["x"], ["z"]], images), choose("b", [["x"]], images)
    (2, 1, 0)
    """
    anywhere = set().union(*images.values())
    best: tuple[tuple[int, ...], int] | None = None
    for index, names in enumerate(wanted):
        how_far = distance(names, here=images.get(place, ()), anywhere=anywhere)
        if not any(how_far):
            return index
        if best is None or (how_far, index) < best:
            best = how_far, index
    return None if best is None else best[1]


def distance(names: Sequence[str], *, here: Collection[str], anywhere: Collection[str]) -> tuple[int, ...]:
    """Return how far each image is from a place that has those that are `here`.

    >>> distance(["x", "y", "z"], here={"x"}, anywhere={"x", "y"}) == (HERE, ELSEWHERE, NOWHERE)
    True
    """
    return tuple(HERE if name in here else ELSEWHERE if name in anywhere else NOWHERE for name in names)
