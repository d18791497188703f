"""Statistics of a stream that need memory for what they keep, not for what passes by."""

import random
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class Reservoir(Generic[T]):
    """A uniform sample of a stream of unknown length (Vitter's algorithm R), the same one for a seed."""

    def __init__(self, capacity: int, *, seed: int) -> None:
        self._capacity = capacity
        self._generator = random.Random(seed)
        self._items: list[T] = []
        self.num_offered = 0

    def offer(self, make: Callable[[], T]) -> None:
        """Offer the next item; it is made only where it gets into the sample."""
        self.num_offered += 1
        if len(self._items) < self._capacity:
            self._items.append(make())
            return
        place = self._generator.randrange(self.num_offered)
        if place < self._capacity:
            self._items[place] = make()

    @property
    def items(self) -> tuple[T, ...]:
        """Return the sample."""
        return tuple(self._items)


class BoundedCounter(Generic[K]):
    """Counts of the most common items of a stream, in bounded memory.

    Exact while there are at most `capacity` different items. Beyond that the rarest are forgotten, so that a count may
    be too low; what is common throughout the stream is not lost.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._counts: Counter[K] = Counter()
        self.is_exact = True

    def add(self, item: K) -> None:
        """Count one item."""
        self._counts[item] += 1
        if len(self._counts) > self._capacity:
            # Half goes at once, so that the sort is paid for by as many additions.
            self._counts = Counter(dict(self._counts.most_common(self._capacity // 2)))
            self.is_exact = False

    def most_common(self) -> tuple[K, int] | None:
        """Return the most common item with its count, the first one seen among equals; None where there is none."""
        return next(iter(self._counts.most_common(1)), None)
