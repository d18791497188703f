"""The embedded engine's folder, and programs of the host that work on its files.

Everything in it that a container sees belongs to the ids that stand for the container's users outside, and is made,
measured, copied and removed as the root of a user namespace with the same map. Left out: what the folders hold
(`container_records.py`, `images.py`).
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from srl_swe.environments.embedded.namespaces import IdMap
from srl_swe.environments.embedded.spawner import Spawner
from srl_swe.environments.embedded.whole_folders import leftovers
from srl_swe.errors import ContainerError, EngineUnavailableError

_FILE_TIMEOUT_S = 600.0


class EngineFolder:
    """The folder, its map of ids, and the small process that works on it."""

    def __init__(self, path: Path) -> None:
        """Make what is missing of it.

        Raises:
            EngineUnavailableError: it cannot be made, or is another user's.
        """
        self.path = path.absolute()
        self.containers = self.path / "containers"
        self.images = self.path / "images"
        self.layers = self.path / "layers"
        self.lock = self.path / ".lock"
        maps = list(IdMap.candidates())
        self.id_map = maps[0]
        try:
            self._make_folders()
        except OSError as error:
            raise EngineUnavailableError(f"the embedded engine cannot use the folder {self.path}: {error}") from error
        self.spawner = Spawner(executable_is_ours=self.id_map.is_own_user)
        if self.id_map.by_helpers:
            try:
                self.run("true")
            except ContainerError:  # they lack their rights, as in many containers
                self.id_map = maps[-1]

    def request(self, task: str, *, files: Sequence[int] = (), timeout_s: float, **arguments: Any) -> dict[str, Any]:
        """Have one of the tasks done that need to know the folder and its map."""
        arguments = {
            "folder": str(self.path),
            "id_map": asdict(self.id_map),
            "executable_is_ours": self.id_map.is_own_user,
            **arguments,
        }
        return self.spawner.request(task, arguments, files=files, timeout_s=timeout_s)

    def run(self, *argv: str) -> str:
        """Run a program of the host inside the folder, and return its output.

        Raises:
            ContainerError: it failed.
        """
        answer = self.request("run_program", argv=argv, timeout_s=_FILE_TIMEOUT_S)
        output = str(answer["output"]).strip()
        if answer["code"] != 0:
            raise ContainerError(f"{argv[0]} in {self.path} ended with exit code {answer['code']}: {output[-2000:]}")
        return output

    def make(self, folder: Path) -> None:
        """Make a folder that belongs to the root inside."""
        folder.mkdir()
        os.chown(folder, *self.id_map.root)

    def size_bytes(self, folder: Path) -> int:
        """Return the disk space of all files below a folder."""
        return int(self.run("du", "-s", "-x", "--block-size=1", self._relative(folder)).split()[0])

    def copy(self, source: Path, target: Path) -> None:
        """Copy what is in a folder, everything kept, into another one."""
        self.run("cp", "-a", "--reflink=auto", "-T", self._relative(source), self._relative(target))

    def destroy(self, *folders: Path) -> None:
        """Remove folders, whatever they hold."""
        if folders:
            self.run("rm", "-rf", "--one-file-system", "--", *map(self._relative, folders))

    def sweep(self, parent: Path) -> None:
        """Remove the unfinished and the half-removed folders that dead processes left."""
        for folder in leftovers(parent):
            self.destroy(folder)

    def _make_folders(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        if not any(self.path.iterdir()):
            self.path.chmod(0o700)
            os.chown(self.path, *self.id_map.root)
        owner = self.path.stat()
        if (owner.st_uid, owner.st_gid) != self.id_map.root:
            raise PermissionError(
                f"it belongs to {owner.st_uid}:{owner.st_gid}, ours would belong to {self.id_map.root}; "
                "another SRL_SWE_CACHE gives another folder"
            )
        for folder in (self.containers, self.images, self.layers):
            folder.mkdir(mode=0o700, exist_ok=True)
            os.chown(folder, *self.id_map.root)

    def _relative(self, folder: Path) -> str:
        return str(folder.relative_to(self.path))
