"""At which engine an episode is played: one that has its image, and where not too many act already.

Left out: the episode itself (`independent`), the places (`fleet`).
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from srl_swe.errors import ContainerError, EngineUnavailableError
from srl_swe.evaluation.episode_environments import EngineEnvironment, EpisodeEnvironment, TimeLimits
from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.places import Place, needed_images
from srl_swe.evaluation.routing import distance
from srl_swe.types import Instance


class ActingPlaces:
    """The places of a fleet for episodes; without a fleet, the engine of this machine. Serves many threads at once."""

    def __init__(self, fleet: Fleet | None, *, max_parallel: int) -> None:
        """`max_parallel` is how many episodes are open at once, at all places together."""
        self._fleet = fleet
        self._max_parallel = max_parallel
        self._lock = threading.Lock()
        self._acting: Counter[str] = Counter()

    def prepare(self, instances: Sequence[Instance]) -> None:
        """Find out which images there are at which place."""
        if self._fleet is not None:
            self._fleet.prepare(instances)

    @contextmanager
    def opened(self, instance: Instance, limits: TimeLimits) -> Iterator[EpisodeEnvironment]:
        """Open an environment at the place that suits it; the caller starts and closes it.

        Raises:
            EngineUnavailableError: no place is left.
            ContainerError: the place fails, and is taken out where it does not answer and others are left.
        """
        if self._fleet is None:
            yield EngineEnvironment(instance, limits)
            return
        place = self._choose(self._fleet, instance)
        try:
            yield place.open_environment(instance, limits)
        except ContainerError as error:
            self._fleet.forget_images(place, needed_images(instance)[:1])
            places = self._fleet.places
            if len(places) > 1 or place not in places:
                self._doubt(self._fleet, place)
                # Also where the engine is gone: another one can go on.
                raise ContainerError(f"{instance.instance_id} at {place.name}: {error}") from error
            raise
        finally:
            with self._lock:
                self._acting[place.name] -= 1

    def _choose(self, fleet: Fleet, instance: Instance) -> Place:
        fleet.require_places()
        names = needed_images(instance)[:1]
        with self._lock:
            places, images = fleet.places, fleet.images()
            anywhere = set().union(*images.values())
            share = -(-self._max_parallel // max(1, len(places)))

            def rank(place: Place) -> tuple[bool, tuple[int, ...], int]:
                acting = self._acting[place.name]
                how_far = distance(names, here=images.get(place.name, ()), anywhere=anywhere)
                return acting >= share, how_far, acting

            if not places:
                raise EngineUnavailableError("no engine is left")
            place = min(places, key=rank)
            self._acting[place.name] += 1
        fleet.expect_images(place, names)
        return place

    @staticmethod
    def _doubt(fleet: Fleet, place: Place) -> None:
        """Take a place out that does not answer."""
        try:
            place.check_alive()
        except ContainerError as error:
            fleet.lose(place, str(error))
