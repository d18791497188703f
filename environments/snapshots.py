"""An episode at one moment: its files, kept as an image, and where it stood, so that episodes can go on from there.

Left out: how one is taken and restored (`swe_env.py`).
"""

import logging
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any, Self

from srl_swe.closing import Closing
from srl_swe.environments.container import Container, open_containers
from srl_swe.environments.engine import Engine
from srl_swe.environments.images import IMAGE_LABEL, PARENT_LABEL
from srl_swe.environments.leases import lease_label, owner_labels
from srl_swe.environments.open_things import OpenThings
from srl_swe.environments.preparation import PREPARED_LABEL
from srl_swe.environments.worktree import WorkTreeBase
from srl_swe.errors import ContainerError
from srl_swe.types import Instance

LOGGER = logging.getLogger(__name__)

_INTERRUPTED_S = 5.0
"""How long the end of a process waits for a snapshot that the engine was making when it was interrupted."""


class SnapshotFiles(Closing):
    """All files of a container at one moment. Close them; containers started from them may outlive that.

    The image is removed when the files are closed and no container uses them any more; a normal exit of the
    process removes what is left, and the next process removes what a killed one left.
    """

    def __init__(self, engine: Engine, image: str) -> None:
        self.image = image
        """Name of the image; start containers of it between `acquire` and `release`."""
        self._engine = engine
        self._lock = threading.Lock()
        self._num_users = 0
        self._closed = False
        self._removed = False

    @classmethod
    def take(cls, container: Container) -> Self:
        """Keep the files of a container, which goes on; its processes are paused meanwhile.

        Raises:
            ContainerError: the engine failed.
        """
        files = cls(container.engine, f"srl-swe/snapshot:{secrets.token_hex(8)}")
        # Known before it exists: an interrupt in the middle of the call must not lose it.
        open_files.add(files)
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

    def acquire(self) -> None:
        """Count one more container that will use the files.

        Raises:
            ContainerError: they are closed.
        """
        with self._lock:
            if self._closed:
                raise ContainerError(f"the snapshot {self.image} is closed; take another one")
            self._num_users += 1

    def release(self) -> None:
        """Count one container less, once it is removed."""
        with self._lock:
            self._num_users -= 1
        self._remove_if_unused()

    def close(self) -> None:
        """No more containers will be started from the files; idempotent."""
        with self._lock:
            self._closed = True
        self._remove_if_unused()

    def _remove_if_unused(self) -> None:
        with self._lock:
            unused = self._closed and self._num_users == 0 and not self._removed
        if unused:
            self._remove()

    def end(self) -> None:
        """Remove the image at the end of the process, when all its containers are to end as well."""
        open_containers.end_all()
        deadline = time.monotonic() + (_INTERRUPTED_S if self._closed else 0.0)
        while not self._remove() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _remove(self) -> bool:
        """Remove the image; False where there is none, or where a container still uses it."""
        try:
            removed = self._engine.remove_image(self.image)
            self._removed = removed or self._engine.find_image(self.image) is None
        except ContainerError as error:
            LOGGER.warning("%s; the next start removes it", error)
            return False
        if self._removed:
            open_files.discard(self)
        return removed


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot(Closing):
    """An episode at one moment: files, working directory, and where it stood. Close it when it is no longer needed.

    What is not part of it: variables and functions of the shell, and processes.
    """

    instance: Instance
    files: SnapshotFiles
    base: WorkTreeBase
    workdir: str
    """The working directory of the shell."""
    num_steps: int
    left_s: float
    """Seconds of the episode's time limit that were left."""
    observation: str
    info: dict[str, Any]
    """What `reset` or `step` returned last."""

    def close(self) -> None:
        """Give the files up; environments that went on from them keep theirs. Idempotent."""
        self.files.close()


open_files = OpenThings(SnapshotFiles.end)
