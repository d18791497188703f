"""Names of images taken apart: registry, repository, tag or digest; and what a mirror calls them."""

import re
import urllib.parse
from dataclasses import dataclass
from typing import Self

from docker.auth import INDEX_NAME, INDEX_URL, resolve_repository_name
from docker.errors import InvalidRepository
from docker.utils import parse_repository_tag

from srl_swe.errors import ConfigError, ImageError

_HUB_HOST = urllib.parse.urlsplit(INDEX_URL).hostname or INDEX_NAME
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MIRROR = re.compile(r"[A-Za-z0-9.-]+(:\d+)?(/[a-z0-9._/-]*[a-z0-9])?")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageReference:
    """What an image's name means to Docker."""

    registry: str
    """As in the name; Docker's own where it names none."""
    path: str
    """Of the repository in the registry, such as "library/debian"."""
    repository_name: str
    """The name without tag and digest, as it was given."""
    tag: str
    """"latest" where the name has neither tag nor digest; empty beside a digest."""
    digest: str
    """As sha256:…, or empty."""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Take a name apart.

        Raises:
            ImageError: it is no name of an image.
        """
        repository, version = parse_repository_tag(name)
        try:
            registry, path = resolve_repository_name(repository)
        except InvalidRepository as error:
            raise ImageError(f"{name!r} is no name of an image: {error}") from error
        if registry == INDEX_NAME and "/" not in path:
            path = f"library/{path}"
        digest = version if "@" in name else ""
        if digest and not _DIGEST.fullmatch(digest):
            raise ImageError(f"{name!r}: expected sha256: and 64 hexadecimal digits behind the @")
        tag = "" if digest else version or "latest"
        return cls(registry=registry, path=path, repository_name=repository, tag=tag, digest=digest)

    @property
    def version(self) -> str:
        """The digest, else the tag: what stands behind /manifests/."""
        return self.digest or self.tag

    @property
    def host(self) -> str:
        """Where the registry answers."""
        return _HUB_HOST if self.registry == INDEX_NAME else self.registry

    def on_mirror(self, mirror: str) -> str:
        """Return what the image is called on a mirror, given as HOST or HOST/PREFIX."""
        return f"{mirror.rstrip('/')}/{self.path}{'@' + self.digest if self.digest else ':' + self.tag}"


def canonical(name: str) -> str:
    """Return one spelling for all names that mean the same image.

    That is "a/b" and "a/b:latest", with Docker's own registry named or not; and localhost/…, as Podman calls what was
    made in it, whatever name that was given.
    """
    reference = ImageReference.parse(name.removeprefix("localhost/"))
    return f"{reference.registry}/{reference.path}{'@' if reference.digest else ':'}{reference.version}"


def checked_mirror(mirror: str | None) -> str | None:
    """Return a mirror without what it ends with.

    Raises:
        ConfigError: it is not HOST[:PORT][/PREFIX].
    """
    if mirror is None:
        return None
    bare = mirror.rstrip("/")
    host = bare.partition("/")[0]
    if not _MIRROR.fullmatch(bare) or not ("." in host or ":" in host or host == "localhost"):
        raise ConfigError(
            f"mirror {mirror!r}: expected HOST[:PORT][/PREFIX] without a scheme, for example mirror.example.org/hub"
        )
    return bare
