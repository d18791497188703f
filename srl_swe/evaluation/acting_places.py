"""At which engine an episode is played: one that has its image, where not too many act already.

Left out: the episode itself (`independent`), the places (`fleet`).
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from srl_swe.errors import ContainerError
from srl_swe.evaluation.dispatch import SEARCH_INTERVAL_S
from srl_swe.evaluation.episode_environments import EngineEnvironment, EpisodeEnvironment, TimeLimits
from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.places import Place, needed_images
from srl_swe.types import Instance


class ActingPlaces:
    """The places of a fleet for episodes; without a fleet, the engine of this machine. Serves many threads at once."""

    def __init__(self, fleet: Fleet | None, *, max_parallel: int) -> None:
        """`max_parallel` is how many episodes are to be open at once, at each place."""
        self._fleet = fleet
        self._max_parallel = max_parallel
        self._lock = threading.Lock()
        self._acting: Counter[str] = Counter()
        self._failed_at: defaultdict[str, set[str]] = defaultdict(set)
        """Places that an instance's episode failed at, by instance id."""
        self._searched = time.monotonic()

    @property
    def num_at_once(self) -> int:
        """How many episodes may be open at once, at all places together."""
        return self._max_parallel * (1 if self._fleet is None else max(1, len(self._fleet.places)))

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
            with self._lock:
                self._failed_at[instance.instance_id].add(place.name)
            self._fleet.forget_images(place, needed_images(instance)[:1])
            places = self._fleet.places
            if len(places) > 1 or place not in places:
                self._fleet.doubt(place)
                # Also where the engine is gone: another one can go on.
                raise ContainerError(f"{instance.instance_id} at {place.name}: {error}") from error
            raise
        else:
            self._played(self._fleet, instance, place)
        finally:
            with self._lock:
                self._acting[place.name] -= 1

    def _choose(self, fleet: Fleet, instance: Instance) -> Place:
        self._search(fleet)
        with self._lock:
            place = fleet.choose(
                instance, self._acting, most=self._max_parallel, avoid=self._failed_at[instance.instance_id]
            )
            self._acting[place.name] += 1
        fleet.expect_images(place, needed_images(instance)[:1])
        return place

    def _played(self, fleet: Fleet, instance: Instance, place: Place) -> None:
        """Note that an episode went well, and take places out where too many failed that went well elsewhere."""
        fleet.believe(place)
        with self._lock:
            failed_at = self._failed_at.pop(instance.instance_id, set()) - {place.name}
        for name in failed_at:
            blamed = fleet.blame(name)
            if blamed is not None:
                fleet.lose(blamed, "several episodes failed there and went well elsewhere")

    def _search(self, fleet: Fleet) -> None:
        """Look now and then for places that have come, or are back."""
        with self._lock:
            if time.monotonic() - self._searched < SEARCH_INTERVAL_S:
                return
            self._searched = time.monotonic()

        def search() -> None:
            with suppress(ContainerError):
                fleet.search()

        threading.Thread(target=search, name="search for engines", daemon=True).start()
