"""The tests' own files as the package ships them, put over a patched work tree.

They come out of the pristine package image once and are kept in memory. Left out: files that steer tests
(`patching.py`).
"""

import posixpath
import threading
from collections import OrderedDict

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.errors import ContainerError
from srl_swe.types import Instance

_MAX_PRISTINE_BYTES = 256 << 20


def pristine_paths(engine: Engine, instance: Instance) -> dict[str, bytes | None]:
    """Return the tars of the paths that an instance takes from its package image; None = not in there."""
    tests = instance.tests
    if tests.restore_image is None or not tests.restore_paths:
        return {}
    return _pristine_cache.paths(engine, tests.restore_image, instance.environment.workdir, tests.restore_paths)


def restore_paths(container: Container, workdir: str, pristine: dict[str, bytes | None]) -> None:
    """Replace each path of the work tree by its pristine tar; one that is not in the pristine tree is removed."""
    if not pristine:
        return
    paths = [posixpath.join(workdir, path) for path in pristine]
    parents = [posixpath.dirname(path) for path in paths]
    script = 'rm -rf -- "$@" && while [ $# -gt 0 ]; do mkdir -p -- "${1%/*}/" || exit 1; shift; done'
    result = container.execute(["bash", "-c", script, "restore", *paths])
    if result.exit_code != 0:
        raise ContainerError(f"tests could not be put back in {container.name}: {result.output[-500:]}")
    for parent, tar in zip(parents, pristine.values(), strict=True):
        if tar is not None:
            container.put_archive(parent, tar)


class _PristineCache:
    """Tars of pristine tests by image and path, bounded by size; the ones used last stay."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tars: OrderedDict[tuple[str, str], bytes | None] = OrderedDict()
        self._lock = threading.Lock()

    def paths(self, engine: Engine, image: str, workdir: str, wanted: tuple[str, ...]) -> dict[str, bytes | None]:
        with self._lock:
            found = {path: self._tars[image, path] for path in wanted if (image, path) in self._tars}
            for path in found:
                self._tars.move_to_end((image, path))
        missing = [path for path in wanted if path not in found]
        if missing:
            with Container.start(engine, image, name_hint="pristine") as container:
                for path in missing:
                    try:
                        found[path] = container.get_archive(posixpath.join(workdir, path))
                    except FileNotFoundError:
                        found[path] = None
            self._keep(image, {path: found[path] for path in missing})
        return {path: found[path] for path in wanted}

    def _keep(self, image: str, tars: dict[str, bytes | None]) -> None:
        with self._lock:
            self._tars.update({(image, path): tar for path, tar in tars.items()})
            while len(self._tars) > 1 and sum(len(tar or b"") for tar in self._tars.values()) > self._max_bytes:
                self._tars.popitem(last=False)


_pristine_cache = _PristineCache(_MAX_PRISTINE_BYTES)
