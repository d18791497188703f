"""The containers of the embedded engine: made, started, judged, kept still, and removed, whoever dies meanwhile.

Left out: what is kept of each on disk (`container_records.py`), what is done inside (`sandbox.py`).
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from srl_swe.environments.embedded.cgroups import Cgroup
from srl_swe.environments.embedded.container_records import (
    STATUS,
    UPPER,
    WORK,
    ContainerRecord,
    end_processes,
    end_strays,
    mark_of,
    open_init,
    read_status,
)
from srl_swe.environments.embedded.folder import EngineFolder
from srl_swe.environments.embedded.images import ImageRecord, ImageUse
from srl_swe.environments.embedded.whole_folders import leftovers, new_folder, retired, whole
from srl_swe.environments.engine import HOSTNAME, ContainerSpec, ContainerState
from srl_swe.errors import ContainerError, EngineTimeoutError

_CALL_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 30.0
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME": HOSTNAME}
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}")


class EmbeddedContainers:
    """All containers in an engine's folder. May be shared between threads and processes."""

    def __init__(self, folder: EngineFolder, *, cgroups: Mapping[str, Path], bwrap: str) -> None:
        """`cgroups`: what `cgroups.find_parents` found."""
        self._folder = folder
        self._cgroups = cgroups
        self._bwrap = bwrap

    def create(self, spec: ContainerSpec, image: ImageRecord) -> ContainerRecord:
        """Make a container's folder; from then on every process can find it, and remove it."""
        if not _NAME.fullmatch(spec.name):
            raise ContainerError(f"expected a name of letters, digits and any of '_.-', found {spec.name!r}")
        limits = spec.limits
        rlimits = {"core": 0, "nofile": limits.max_open_files, "fsize": limits.disk_bytes}
        if "memory" not in self._cgroups:
            rlimits["data"] = limits.memory_bytes
        if "pids" not in self._cgroups:
            rlimits["nproc"] = limits.max_processes
        record = ContainerRecord(
            name=spec.name,
            image=image.id,
            layers=tuple(image.layers),
            labels={**image.labels, **spec.labels},
            environment={**_ENVIRONMENT, **image.environment},
            init=spec.init,
            workdir=spec.workdir,
            capabilities=spec.capabilities,
            rlimits=rlimits,
            cgroup=Cgroup.named(spec.name, self._cgroups),
        )
        with new_folder(self._folder.containers, owner=self._folder.id_map.root) as folder:
            try:
                self._make_upper(folder, record)
                self._folder.make(folder / WORK)
                record.write(folder)
                folder.rename(self._folder.containers / spec.name)
            except BaseException:
                self._folder.destroy(folder)
                raise
        return record

    def start(self, record: ContainerRecord) -> None:
        """Start process 1 of a container in which nothing runs."""
        self._folder.request(
            "start",
            name=record.name,
            mark=self._mark(record),
            layers=record.layers,
            entrances=record.cgroup.entrances,
            views=record.cgroup.views,
            bwrap=self._bwrap,
            environment={"HOME": "/root", **record.environment},
            init=record.init,
            workdir=record.workdir,
            capabilities=record.capabilities,
            rlimits=record.rlimits,
            timeout_s=_CALL_TIMEOUT_S,
        )

    def restart(self, record: ContainerRecord, *, from_image: bool = False) -> None:
        """End all processes of a container, and start process 1 again, on the same files or on those of the image."""
        folder = self._folder.containers / record.name
        self._end(folder, record)
        (folder / STATUS).unlink(missing_ok=True)
        if from_image:
            self._folder.destroy(folder / UPPER)
            self._make_upper(folder, record)
        self._folder.destroy(folder / WORK)
        self._folder.make(folder / WORK)
        self.start(record)

    def remove(self, name: str) -> bool:
        """End a container and remove it; False where it is gone, or where another process removes it."""
        if not _NAME.fullmatch(name):
            return False
        with retired(self._folder.containers / name) as folder:
            if folder is not None:
                self._destroy(folder)
        return folder is not None

    def sweep(self) -> None:
        """Remove what killed processes left half made or half removed."""
        for folder in leftovers(self._folder.containers):
            self._destroy(folder)
        end_strays(self._folder.path, self._folder.containers, timeout_s=_END_TIMEOUT_S)

    def all(self) -> list[ContainerRecord]:
        """Return every container, running or not."""
        found = [ContainerRecord.read(folder) for folder in whole(self._folder.containers)]
        return [record for record in found if record is not None]

    def require(self, name: str) -> ContainerRecord:
        """Return a container. Raises ContainerError where there is none of that name."""
        record = self._find(name)
        if record is None:
            raise ContainerError(f"no such container: {name}")
        return record

    def use(self) -> ImageUse:
        """Return what all of them need of the images."""
        records = self.all()
        return ImageUse(
            images=frozenset(record.image for record in records),
            layers=frozenset(layer for record in records for layer in record.layers),
        )

    def state(self, name: str) -> ContainerState:
        """See `Engine`."""
        record = self._find(name)
        if record is None:
            return ContainerState(running=False, status="removed")
        out_of_memory = record.cgroup.num_oom_kills() > 0
        if self.is_running(record):
            return ContainerState(running=True, status="running", out_of_memory=out_of_memory)
        _, exit_code = read_status(self._folder.containers / name)
        return ContainerState(running=False, status="exited", exit_code=exit_code, out_of_memory=out_of_memory)

    def is_running(self, record: ContainerRecord) -> bool:
        """Tell whether process 1 lives."""
        descriptor = open_init(self._folder.containers / record.name, self._mark(record))
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def written(self, record: ContainerRecord) -> Path:
        """Return the folder of all files that a container has written."""
        return self._folder.containers / record.name / UPPER

    def entry(self, record: ContainerRecord) -> dict[str, Any]:
        """Return what a task needs in order to enter a container."""
        folder = str(self._folder.containers / record.name)
        return {"folder": folder, "mark": self._mark(record), "entrances": record.cgroup.entrances}

    @contextlib.contextmanager
    def still(self, record: ContainerRecord) -> Iterator[None]:
        """Keep all processes of a container from running."""
        if not self.is_running(record):
            yield
        elif record.cgroup.can_freeze:
            with record.cgroup.frozen(timeout_s=_END_TIMEOUT_S):
                yield
        else:
            try:
                self._folder.spawner.request("pause", self.entry(record), timeout_s=_CALL_TIMEOUT_S)
                yield
            finally:
                self._folder.spawner.request("resume", self.entry(record), timeout_s=_CALL_TIMEOUT_S)

    def _make_upper(self, folder: Path, record: ContainerRecord) -> None:
        self._folder.make(folder / UPPER)
        top = self._folder.layers / record.layers[0]
        (folder / UPPER).chmod(top.stat().st_mode & 0o7777)  # it becomes that of "/"

    def _find(self, name: str) -> ContainerRecord | None:
        return ContainerRecord.read(self._folder.containers / name) if _NAME.fullmatch(name) else None

    def _destroy(self, folder: Path) -> None:
        """End what runs in a container whose folder is retired or unfinished, and remove all of it."""
        record = ContainerRecord.read(folder)
        if record is not None:
            self._end(folder, record)
            if not record.cgroup.remove(timeout_s=_END_TIMEOUT_S):
                paths = ", ".join(map(str, record.cgroup.paths))
                raise EngineTimeoutError(f"after {_END_TIMEOUT_S:.0f} s there are still processes in {paths}")
        self._folder.destroy(folder)

    def _end(self, folder: Path, record: ContainerRecord) -> None:
        if not end_processes(folder, self._mark(record), record.cgroup, timeout_s=_END_TIMEOUT_S):
            raise EngineTimeoutError(f"its processes did not end within {_END_TIMEOUT_S:.0f} s of SIGKILL")

    def _mark(self, record: ContainerRecord) -> str:
        return mark_of(self._folder.path, record.name)
