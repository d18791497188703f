"""`with` for things that have a `close`."""

import abc
from types import TracebackType
from typing import Self


class Closing(abc.ABC):
    """A context manager that closes itself at the end."""

    __slots__ = ()

    @abc.abstractmethod
    def close(self) -> None:
        """Give up what is held; idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
