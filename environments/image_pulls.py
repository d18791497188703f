"""Pulls that come to an end: from a mirror or the registry, again after failures, later where a registry asks for it.

Left out: one try (`docker_images.py`), how many at once and in what order (`image_supply.py`).
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tenacity import RetryCallState, Retrying, retry_if_exception_type, retry_if_not_exception_type

from srl_swe.environments.downloads import file_lock
from srl_swe.environments.engine import Engine, ImageInfo, PullProgress
from srl_swe.environments.image_ledger import ImageLedger
from srl_swe.environments.image_references import ImageReference, checked_mirror
from srl_swe.environments.registry import Registries
from srl_swe.errors import ConfigError, DiskFullError, ImageError, PullThrottledError

LOGGER = logging.getLogger(__name__)

_FIRST_WAIT_S = 2.0
_LONGEST_WAIT_S = 120.0
_LONGEST_ASKED_WAIT_S = 3600.0
"""A registry that asks to be left alone for longer is not waited for."""
_UNREACHABLE = ("no such host", "connection refused", "network is unreachable", "no route to host")
_UNREACHABLE_ATTEMPTS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class PullConfig:
    """How images are pulled."""

    mirror: str | None = None
    """HOST[:PORT][/PREFIX] to pull from instead of the images' own registries, for example mirror.example.org/hub;
    the images get their official names. None = the engine's own settings decide."""
    pulls_at_once: int = 2
    """Images pulled or built at once."""
    pull_attempts: int = 6
    """Tries per image before its pull counts as failed. Between them 2 to 120 seconds pass, or what the registry asks
    for (Retry-After, at most an hour)."""

    def __post_init__(self) -> None:
        checked_mirror(self.mirror)
        for name in ("pulls_at_once", "pull_attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")

    def source(self, name: str) -> str:
        """Return what is pulled for an image.

        Raises:
            ImageError: a mirror cannot give an image this name.
        """
        mirror = checked_mirror(self.mirror)
        if mirror is None:
            return name
        reference = ImageReference.parse(name)
        if reference.digest:
            raise ImageError(
                f"{name} is named by its digest, and no engine gives an image of another repository such a name: pull "
                "it without --mirror, or set the mirror in the engine's own configuration (registry-mirrors)"
            )
        return reference.on_mirror(mirror)


DEFAULT_PULLS = PullConfig()


class ImagePuller:
    """Pulls into one engine and keeps its ledger. Safe for threads and processes."""

    def __init__(
        self, engine: Engine, config: PullConfig = DEFAULT_PULLS, *, registries: Registries | None = None
    ) -> None:
        self._engine = engine
        self._config = config
        self._registries = registries or Registries()
        self.ledger = ImageLedger(engine.identity)

    def ensure(
        self,
        name: str,
        *,
        progress: Callable[[PullProgress], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> bool:
        """Pull an image where the engine lacks it; return whether it did.

        `sleep` waits between tries; what it raises ends the pull.

        Raises:
            DiskFullError: the engine's disk has no room.
            ImageError: it could not be pulled, after all tries.
        """
        if self._engine.find_image(name) is not None:
            self._adopt(name)
            return False
        with file_lock(name):
            if self._engine.find_image(name) is not None:
                self._adopt(name)
                return False
            source = self._config.source(name)
            self.ledger.note_pull(name, source)
            LOGGER.info("pulling %s", name if source == name else f"{name} as {source}")
            retrying = Retrying(
                stop=self._is_over,
                retry=retry_if_exception_type(ImageError)
                & retry_if_not_exception_type((DiskFullError, _HopelessError)),
                wait=lambda state: self._wait_s(source, state),
                sleep=sleep,
                reraise=True,
            )
            retrying(self._pull, name, source, progress)
        return True

    def _pull(self, name: str, source: str, progress: Callable[[PullProgress], None] | None) -> None:
        try:
            self._engine.pull_image(source, progress=progress)
        except ImageError as error:
            if _is_final(error):
                raise _HopelessError(str(error)) from error
            raise
        image = self._engine.find_image(source)
        if image is None:
            raise ImageError(f"{source} was removed from the engine as soon as it was there")
        self.ledger.note_pulled(name, digest=_digest_from(image, source), image_id=image.id)
        self.ledger.note_layers(name, self._engine.image_layers(source))
        if source != name:
            self._engine.tag_image(source, name)
            self._engine.remove_image(source)

    def _is_over(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        # Without a network none of many images would come: not worth minutes of waiting for each.
        unreachable = any(words in str(error).lower() for words in _UNREACHABLE)
        most = min(_UNREACHABLE_ATTEMPTS, self._config.pull_attempts) if unreachable else self._config.pull_attempts
        return state.attempt_number >= (most if self._engine.can_pull else 1)

    def _adopt(self, name: str) -> None:
        """Complete the record of a pull that ended well while its process was killed.

        What was loaded from a file since is not taken for it: Docker knows no manifest of that, and no registry serves
        the one that Podman makes up, which is asked for before anything is removed.
        """
        record = self.ledger.find(name)
        if record.pulled_from != name or record.image_id:
            return
        image = self._engine.find_image(name)
        if image is not None and (digest := _digest_from(image, name)):
            self.ledger.note_pulled(name, digest=digest, image_id=image.id)

    def _wait_s(self, source: str, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_s = None
        if isinstance(error, PullThrottledError):
            asked_s = error.retry_after_s or self._registries.retry_after_s(source)
        if asked_s is not None and asked_s > _LONGEST_ASKED_WAIT_S:
            raise ImageError(
                f"{source}: the registry asks to be left alone for {asked_s:.0f} s; run the same command again then, "
                "log in to it, or give --mirror"
            ) from error
        own_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (state.attempt_number - 1)) * random.uniform(0.75, 1.25)
        wait_s = own_s if asked_s is None else asked_s + random.uniform(0, 1)
        LOGGER.warning("pulling %s again in %.0f s (try %d): %s", source, wait_s, state.attempt_number + 1, error)
        return wait_s


class _HopelessError(ImageError):
    """The registry has no such image, or does not give it to this user."""


def _is_final(error: ImageError) -> bool:
    said = str(error).lower()
    return any(
        words in said
        for words in ("manifest unknown", "not found", "access denied", "unauthorized", "no matching manifest")
    )


def _digest_from(image: ImageInfo, source: str) -> str:
    """Return the digest under which a repository has the image; "" where the engine does not know it."""
    repository = ImageReference.parse(source).repository_name
    for digest in image.digests:
        name, _, value = digest.partition("@")
        if ImageReference.parse(name).path == ImageReference.parse(repository).path:
            return value
    return ""
