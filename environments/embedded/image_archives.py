"""Images that come as files: `docker save`, OCI archives, and plain root file systems.

    python -m srl_swe.environments.embedded.image_archives import NAME FILE    # a root file system as a tar; "-": stdin
    python -m srl_swe.environments.embedded.image_archives load FILE           # of `docker save` or `podman save`
    python -m srl_swe.environments.embedded.image_archives list

Left out: how an image is stored (`images.py`).
"""

import hashlib
import json
import platform
import secrets
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from srl_swe.environments.embedded.images import EmbeddedImages, ImageRecord, with_tag
from srl_swe.errors import ImageError, SrlSweError

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_USAGE = 2


def import_rootfs(
    images: EmbeddedImages, name: str, tar: IO[bytes], *, labels: Mapping[str, str] | None = None
) -> ImageRecord:
    """Make an image of a root file system, a tar as `docker export` writes it, compressed or not.

    Raises:
        ImageError: it cannot be unpacked.
    """
    image = ImageRecord(name=with_tag(name), labels=labels or {})
    return images.unpack(image, [(secrets.token_hex(6), tar)])


def load_archive(images: EmbeddedImages, path: Path) -> list[ImageRecord]:
    """Bring in the images of a `docker save` or OCI archive.

    Raises:
        ImageError: it is no such archive, or cannot be unpacked.
    """
    try:
        with tarfile.open(path) as archive:
            found = list(_images_in(archive))
            return [_load(images, archive, name, config, layers) for name, config, layers in found]
    except (tarfile.TarError, OSError, LookupError, TypeError, ValueError) as error:
        raise ImageError(f"{path} is no archive of images ({type(error).__name__}: {error})") from error


def _load(
    images: EmbeddedImages, archive: tarfile.TarFile, name: str, config: Mapping[str, Any], layers: Sequence[str]
) -> ImageRecord:
    settings = config.get("config") or {}
    image = ImageRecord(
        name=with_tag(name),
        labels=settings.get("Labels") or {},
        environment=dict(entry.split("=", 1) for entry in settings.get("Env") or [] if "=" in entry),
        workdir=settings.get("WorkingDir") or "/",
    )
    # A layer's content decides its name, so that images which share one do so here too.
    names = [hashlib.sha256(diff_id.encode()).hexdigest()[:12] for diff_id in config["rootfs"]["diff_ids"]]
    return images.unpack(image, [(name, _member(archive, layer)) for name, layer in zip(names, layers, strict=True)])


def _images_in(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Yield name, configuration and the members that are layers, the lowest first, of each image."""
    if "manifest.json" in archive.getnames():  # of Docker, https://github.com/moby/docker-image-spec
        for entry in _json(archive, "manifest.json"):
            for name in entry.get("RepoTags") or [Path(entry["Config"]).name.removesuffix(".json")]:
                yield name, _json(archive, entry["Config"]), entry["Layers"]
        return
    # https://github.com/opencontainers/image-spec/blob/main/image-layout.md
    waiting = list(_json(archive, "index.json")["manifests"])
    while waiting:
        descriptor = waiting.pop(0)
        manifest = _json(archive, _blob(descriptor))
        notes = descriptor.get("annotations") or {}
        if "manifests" in manifest:
            machine = _ARCHITECTURES.get(platform.machine(), platform.machine())
            fitting = [m for m in manifest["manifests"] if m.get("platform", {}).get("architecture") in (machine, None)]
            waiting += [m | {"annotations": notes} for m in fitting]
            continue
        name = notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name")
        layers = [_blob(layer) for layer in manifest["layers"]]
        yield name or descriptor["digest"].rpartition(":")[2], _json(archive, _blob(manifest["config"])), layers


def _blob(descriptor: Mapping[str, Any]) -> str:
    algorithm, _, digest = descriptor["digest"].partition(":")
    return f"blobs/{algorithm}/{digest}"


def _json(archive: tarfile.TarFile, name: str) -> Any:
    return json.load(_member(archive, name))


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    found = archive.extractfile(name)
    if found is None:
        raise KeyError(f"{name} is no file")
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command line; see the module's docstring."""
    from srl_swe.environments.embedded.engine import EmbeddedEngine

    try:
        with EmbeddedEngine() as engine:
            match argv:
                case ["import", name, source, *labels]:
                    pairs = dict(label.split("=", 1) for label in labels)
                    if source == "-":
                        found = [import_rootfs(engine.images, name, sys.stdin.buffer, labels=pairs)]
                    else:
                        with Path(source).open("rb") as tar:
                            found = [import_rootfs(engine.images, name, tar, labels=pairs)]
                case ["load", source]:
                    found = load_archive(engine.images, Path(source))
                case ["list"]:
                    found = engine.images.all()
                case _:
                    print(__doc__, file=sys.stderr)
                    return _USAGE
    except SrlSweError as error:
        print(error, file=sys.stderr)
        return 1
    for image in found:
        print(f"{image.name}\t{image.id}\t{image.size_bytes / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
