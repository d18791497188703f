"""The places of one evaluation: which of them are there, what images they have, and how they stop.

One engine is a fleet of one place. Left out: what a place is (`places`), who grades what and what becomes of work
whose place is lost (`dispatch`).
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from srl_swe.closing import Closing
from srl_swe.environments.image_names import published_image_name
from srl_swe.errors import ContainerError, EngineUnavailableError
from srl_swe.evaluation.places import Place, needed_images
from srl_swe.evaluation.routing import distance
from srl_swe.pool import WorkPool
from srl_swe.types import Instance

FindMore = Callable[[Collection[str]], Sequence[Place]]
"""(names of places that are not wanted) -> places that have come since, or are back."""

_NO_BOUND = 1_000_000
_LOOK_LIMIT_S = 300.0
_STOP_LIMIT_S = 15.0
_MAX_BLAMES = 3
"""Instances that failed at a place and were graded at another, until the place is not believed any more."""

logger = logging.getLogger(__name__)


class Fleet(Closing):
    """Places that patches are graded at. Its methods may be called from any thread."""

    def __init__(self, places: Iterable[Place], *, find_more: FindMore | None = None) -> None:
        """The places are closed with the fleet; `find_more` is asked now and then while work is done."""
        self.pool = WorkPool(_NO_BOUND)
        """Its threads; each place bounds its own."""
        self.find_more = find_more
        self._lock = threading.Lock()
        self._places = {place.name: place for place in places}
        self._images: dict[str, dict[str, str]] = {}
        self._graded_on: dict[str, str] = {}
        self._lost: dict[str, str] = {}
        self._blames: Counter[str] = Counter()
        self._banned: set[str] = set()
        self._num_ever = len(self._places)
        self._closed = False

    @property
    def places(self) -> tuple[Place, ...]:
        """The places that are there now."""
        with self._lock:
            return tuple(self._places.values())

    @property
    def num_ever(self) -> int:
        """Places that there have been, lost ones included."""
        return self._num_ever

    def require_places(self) -> None:
        """Raise EngineUnavailableError, saying why each was lost, where no place is left."""
        with self._lock:
            if not self._places:
                each = "; ".join(f"{name}: {why}" for name, why in self._lost.items())
                raise EngineUnavailableError(each or "there is no engine")

    def admit(self, found: Sequence[Place]) -> None:
        """Take places in, or close them again where the fleet is closed or has them already."""
        for place in found:
            with self._lock:
                refused = self._closed or place.name in self._places
                if not refused:
                    self._places[place.name] = place
                    self._num_ever += 1
                    self._lost.pop(place.name, None)
            if refused:
                _close(place)
            else:
                logger.warning("%s takes part from now on", place.name)

    def lose(self, place: Place, why: str) -> bool:
        """Take a place out; False where it was out already."""
        with self._lock:
            if self._places.get(place.name) is not place:
                return False
            del self._places[place.name]
            self._images.pop(place.name, None)
            self._lost[place.name] = why
            left = len(self._places)
        logger.warning("%s is taken out, %d left: %s", place.name, left, why)
        # Closing asks a machine that may be gone.
        threading.Thread(target=_close, args=(place,), name=f"close {place.name}", daemon=True).start()
        return True

    def search(self) -> None:
        """Look for places that have come, or are back, and take them in.

        Raises:
            ContainerError: nothing can be found out at the moment.
        """
        if self.find_more is not None:
            with self._lock:
                not_wanted = {*self._places, *self._banned}
            self.admit(self.find_more(not_wanted))

    def believe(self, place: Place) -> None:
        """Note that the place has graded something."""
        with self._lock:
            self._blames.pop(place.name, None)

    def blame(self, name: str) -> Place | None:
        """Note that an instance that failed there was graded elsewhere; return the place where that is too often."""
        with self._lock:
            self._blames[name] += 1
            if self._blames[name] < _MAX_BLAMES or len(self._places) < 2:
                return None
            self._banned.add(name)
            return self._places.get(name)

    def doubt(self, place: Place) -> None:
        """Take a place out that does not answer, where others are left."""
        try:
            place.check_alive()
        except ContainerError as error:
            if len(self.places) > 1:
                self.lose(place, str(error))

    def choose(
        self, instance: Instance, running: Mapping[str, int], *, most: int, avoid: Collection[str] = ()
    ) -> Place:
        """Return the place for one thing more on an instance: not one to avoid, then where fewer than `most` run, then
        the nearest to the image, then where the fewest run.

        Raises:
            EngineUnavailableError: no place is left.
        """
        self.require_places()
        names, images = needed_images(instance)[:1], self.images()
        anywhere = set().union(*images.values())

        def rank(place: Place) -> tuple[bool, bool, tuple[int, ...], int]:
            number = running.get(place.name, 0)
            how_far = distance(names, here=images.get(place.name, ()), anywhere=anywhere)
            return place.name in avoid, number >= most, how_far, number

        places = self.places
        if not places:
            raise EngineUnavailableError("no engine is left")
        return min(places, key=rank)

    def look(self, place: Place, names: Sequence[str]) -> None:
        """Ask a place which of these images it has.

        Raises:
            ContainerError: it does not answer.
        """
        found = place.find_images(names)
        with self._lock:
            if self._places.get(place.name) is place:
                self._images[place.name] = {**self._images.get(place.name, {}), **found}

    def prepare(self, instances: Sequence[Instance]) -> None:
        """Ask all places which images they have; those that do not answer are taken out. One place is not asked."""
        places = self.places
        if len(places) < 2:
            return
        names = tuple(dict.fromkeys(name for instance in instances for name in needed_images(instance)))
        asked = self.pool.run(places, lambda place: self.look(place, names), limit_s=lambda _: _LOOK_LIMIT_S)
        for place, outcome in asked:
            if isinstance(outcome, (ContainerError, TimeoutError)):
                self.lose(place, str(outcome))
            elif isinstance(outcome, Exception):
                raise outcome

    def ordered(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        """Return the instances in the order that suits the place, where there is one alone."""
        places = self.places
        return places[0].ordered(instances) if len(places) == 1 else instances

    def has_looked(self, place: Place) -> bool:
        """Say whether the images of a place are known; of a single place they need not be."""
        with self._lock:
            return place.name in self._images or len(self._places) < 2

    def images(self) -> Mapping[str, Collection[str]]:
        """Return the names of the images that are, or are being made, at each place."""
        with self._lock:
            return {name: set(found) for name, found in self._images.items()}

    def expect_images(self, place: Place, names: Sequence[str]) -> None:
        """Note that work begins at a place after which it has these images."""
        with self._lock:
            if self._places.get(place.name) is place:
                for name in names:
                    self._images.setdefault(place.name, {}).setdefault(name, "")

    def forget_images(self, place: Place, names: Sequence[str]) -> None:
        """Note that it may not have these images after all."""
        with self._lock:
            for name in names:
                self._images.get(place.name, {}).pop(name, None)

    def note_graded(self, found: Mapping[str, str]) -> None:
        """Note the ids of images that something was graded on."""
        with self._lock:
            self._graded_on.update(found)

    def image_digest(self, instance: Instance) -> str | None:
        """Return what the instance's image is made of: where we build all of it its name says so, else the engine's id
        of what was published.

        None where it is nowhere, or where the places have different ones and nothing was graded yet.
        """
        name = published_image_name(instance.environment)
        if name is None:
            return instance.environment.image
        with self._lock:
            if name in self._graded_on:
                return self._graded_on[name]
            known = [found[name] for found in self._images.values() if found.get(name)]
            places = tuple(self._places.values())
        if not known and len(places) == 1:
            try:
                known = list(places[0].find_images([name]).values())
            except ContainerError:
                return None  # an engine that does not answer is found out when it has to grade
        return known[0] if len(set(known)) == 1 else None

    def stop_running(self) -> None:
        """Stop what runs at every place at once.

        Raises:
            ContainerError: no place could be stopped, or none is left.
        """
        places = self.places
        failures = []
        pool = WorkPool(len(places) or 1)
        for place, outcome in pool.run(places, lambda place: place.stop_running(), limit_s=lambda _: _STOP_LIMIT_S):
            if isinstance(outcome, (ContainerError, TimeoutError)):
                failures.append(f"{place.name}: {outcome}")
            elif isinstance(outcome, Exception):
                raise outcome
        if len(failures) == len(places):
            raise ContainerError("; ".join(failures) or "no engine is left")
        for failure in failures:
            logger.warning("what runs could not be stopped, `srl-swe gc` there removes what is left: %s", failure)

    def close(self) -> None:
        """Close the places; idempotent."""
        with self._lock:
            self._closed = True
            places, self._places = tuple(self._places.values()), {}
        closing = WorkPool(len(places) or 1).run(places, _close, limit_s=lambda _: _STOP_LIMIT_S)
        for place, outcome in closing:
            if isinstance(outcome, Exception):
                logger.warning("%s could not be closed: %s", place.name, outcome)


def _close(place: Place) -> None:
    try:
        place.close()
    except ContainerError as error:
        logger.warning("%s could not be closed: %s", place.name, error)
