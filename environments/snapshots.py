"""The files of an episode at one moment, kept as an image, so that episodes can go on from there.

Left out: what else belongs to the state of an episode (`swe_env.py`).
"""

import atexit
import logging
import os
import secrets
import threading
import time
from types import TracebackType
from typing import Self

from srl_swe.environments.container import Container, close_open_containers
from srl_swe.environments.engine import Engine
from srl_swe.environments.images import IMAGE_LABEL, PARENT_LABEL
from srl_swe.environments.leases import lease_label, owner_labels
from srl_swe.environments.preparation import PREPARED_LABEL
from srl_swe.errors import ContainerError

LOGGER = logging.getLogger(__name__)

_INTERRUPTED_S = 5.0
"""How long the end of a process waits for a snapshot that the engine was making when it was interrupted."""

_open_files: set["SnapshotFiles"] = set()
_lock = threading.Lock()


class SnapshotFiles:
    """All files of a container at one moment. Close them; containers started from them may outlive that.

    The image is removed when the files are closed and no container uses them any more; a normal exit of the
    process removes what is left, and the next process removes what a killed one left.
    """

    def __init__(self, engine: Engine, image: str) -> None:
        self.image = image
        """Name of the image; start containers of it between `acquire` and `release`."""
        self._engine = engine
        self._num_users = 0
        self._closed = False

    @classmethod
    def take(cls, container: Container) -> Self:
        """Keep the files of a container, which goes on; its processes are paused meanwhile.

        Raises:
            ContainerError: the engine failed.
        """
        files = cls(container.engine, f"srl-swe/snapshot:{secrets.token_hex(8)}")
        # Known before it exists: an interrupt in the middle of the call must not lose it.
        with _lock:
            _open_files.add(files)
        # What it would inherit of the image that it started from.
        labels = {**dict.fromkeys((PREPARED_LABEL, PARENT_LABEL, IMAGE_LABEL), ""), **owner_labels("snapshot")}
        labels |= lease_label(container.limits.lifetime_s)
        try:
            container.commit(files.image, labels=labels)
        except ContainerError:
            files.close()
            raise
        except BaseException:
            # The engine goes on with what was interrupted here: only later can it be removed.
            files._closed = True
            raise
        return files

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def acquire(self) -> None:
        """Count one more container that will use the files.

        Raises:
            ContainerError: they are closed.
        """
        with _lock:
            if self._closed:
                raise ContainerError(f"the snapshot {self.image} is closed; take another one")
            self._num_users += 1

    def release(self) -> None:
        """Count one container less, once it is removed."""
        with _lock:
            self._num_users -= 1
        self._remove_if_unused()

    def close(self) -> None:
        """No more containers will be started from the files; idempotent."""
        with _lock:
            self._closed = True
        self._remove_if_unused()

    def _remove_if_unused(self) -> None:
        with _lock:
            unused = self._closed and self._num_users == 0 and self in _open_files
        if unused:
            self.remove()

    def remove(self) -> bool:
        """Remove the image, whoever uses it; tell whether that worked."""
        try:
            removed = self._engine.remove_image(self.image)
        except ContainerError as error:
            LOGGER.warning("%s; the next start removes it", error)
            return False
        with _lock:
            _open_files.discard(self)
        return removed


def _forget_the_parents() -> None:
    """After a fork: see `container.py`."""
    global _lock
    _lock = threading.Lock()
    _open_files.clear()


os.register_at_fork(after_in_child=_forget_the_parents)


@atexit.register
def _remove_open_files() -> None:
    close_open_containers()
    with _lock:
        left = list(_open_files)
    for files in left:
        interrupted, files._num_users = files._closed, 0
        deadline = time.monotonic() + (_INTERRUPTED_S if interrupted else 0.0)
        while not (removed := files.remove()) and time.monotonic() < deadline:
            time.sleep(0.1)
        LOGGER.debug("snapshot %s: removed %s", files.image, removed)
