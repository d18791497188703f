"""Removes images that are certain to come back, and no others.

Certain is what this tool itself pulled, unchanged since, as long as the registry it came from still serves the same
digest under the same name; and what this tool built from a recipe whose files are in its cache. Whatever somebody
brought into the engine by hand stays, also where a registry may have it: it may be a build of their own under a
public name, the registry may be out of reach later, and it is not ours. Left out: when room is needed
(`image_supply.py`).
"""

import logging
from dataclasses import dataclass

from srl_swe.environments.downloads import is_cached
from srl_swe.environments.engine import Engine, ImageInfo
from srl_swe.environments.image_ledger import ImageLedger
from srl_swe.environments.image_names import BASE_IMAGE
from srl_swe.environments.image_pulls import PullConfig
from srl_swe.environments.image_references import canonical
from srl_swe.environments.image_uses import removing_image
from srl_swe.environments.images import IMAGE_LABEL, PARENT_LABEL
from srl_swe.environments.preparation import PREPARED_LABEL
from srl_swe.environments.registry import Registries
from srl_swe.environments.task_images import TaskImage
from srl_swe.errors import ImageError
from srl_swe.types import DerivedRecipe, SdistRecipe

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Eviction:
    """What became of an image that was to go."""

    removed: bool
    why_not: str = ""
    """Why it stays."""
    for_now: bool = False
    """Whether that may pass soon: something uses it, or its registry does not answer."""


class ImageEviction:
    """Removes images from one engine. Safe for threads and processes."""

    def __init__(self, engine: Engine, ledger: ImageLedger, pulls: PullConfig, registries: Registries) -> None:
        self._engine = engine
        self._ledger = ledger
        self._pulls = pulls
        self._registries = registries

    def why_kept(self, image: TaskImage) -> str:
        """Return why an image of the engine is never removed; "" where it may be, if the registry agrees then.

        Raises:
            ContainerError: the engine failed.
        """
        info = self._engine.find_image(image.name)
        return "" if info is None else self._why_kept(image, info)

    def evict(self, image: TaskImage, *, dry_run: bool = False) -> Eviction:
        """Remove an image with what was prepared of it, unless it is in use or might not come back.

        `dry_run` removes nothing and says what would be done.

        Raises:
            ContainerError: the engine failed.
        """
        with removing_image(image.name) as alone:
            if not alone:
                return Eviction(removed=False, why_not="a process uses it", for_now=True)
            info = self._engine.find_image(image.name)
            if info is None:
                return Eviction(removed=False, why_not="it is not here")
            if why := self._why_kept(image, info):
                return Eviction(removed=False, why_not=why)
            if image.environment.recipe is None and (lost := self._lost(image.name)) is not None:
                return lost
            prepared = [each.id for each in self._prepared_of(info)]
            if other := self._built_on(info, besides={info.id, *prepared}):
                return Eviction(removed=False, why_not=f"{other} is built on it")
            if dry_run:
                return Eviction(removed=True)
            self._ledger.note_layers(image.name, self._engine.image_layers(image.name))
            for name in (*prepared, image.name):
                if not self._engine.remove_image(name) and self._engine.find_image(name) is not None:
                    return Eviction(removed=False, why_not="a container uses it", for_now=True)
        self._remove_parent(image)
        return Eviction(removed=True)

    def _why_kept(self, image: TaskImage, info: ImageInfo) -> str:
        if others := _other_names(info, image.name):
            return f"it is also called {', '.join(others)}"
        recipe = image.environment.recipe
        if recipe is None:
            return self._why_not_pulled_again(image.name, info)
        if info.labels.get(IMAGE_LABEL) != "1":
            return "this tool did not build it"
        base = recipe.parent if isinstance(recipe, DerivedRecipe) else BASE_IMAGE
        if self._engine.find_image(base) is None:
            return f"it could not be built again: the image {base} is missing"
        if isinstance(recipe, SdistRecipe) and not is_cached(recipe, machine=self._engine.architecture):
            return "it could not be built again without the package index: its files are not in the cache"
        return ""

    def _why_not_pulled_again(self, name: str, info: ImageInfo) -> str:
        record = self._ledger.find(name)
        if not record.pulled_from or record.image_id != info.id:
            return "this tool did not pull it, so it might not come back"
        try:
            source = self._pulls.source(name)
        except ImageError as error:
            return str(error)
        if record.pulled_from != source:
            return f"it was pulled as {record.pulled_from}, and now would come from {source}"
        return ""

    def _lost(self, name: str) -> Eviction | None:
        """Return why a pulled image would not come back, None where it would."""
        record = self._ledger.find(name)
        served = self._registries.serves(record.pulled_from, record.digest) if record.digest else False
        if served:
            return None
        if served is None:
            why = f"the registry does not say whether it still has {record.pulled_from}"
            return Eviction(removed=False, why_not=why, for_now=True)
        why = f"the registry does not serve {record.pulled_from} with digest {record.digest or '(unknown)'} now"
        return Eviction(removed=False, why_not=why)

    def _prepared_of(self, info: ImageInfo) -> list[ImageInfo]:
        found = self._engine.list_images(f"{PARENT_LABEL}={info.id}")
        images = [self._engine.find_image(each.id) for each in found if each.labels.get(PREPARED_LABEL)]
        return [image for image in images if image is not None]

    def _built_on(self, info: ImageInfo, *, besides: set[str]) -> str:
        """Return an image that was made of this one, which would keep it under no name."""
        for other in self._engine.all_images():
            if other.parent == info.id and other.id not in besides:
                return other.names[0] if other.names else other.id
        return ""

    def _remove_parent(self, image: TaskImage) -> None:
        """Remove what an instance's image was built on, once no other stands on it and it is certain to come back."""
        for name in image.names[1:]:
            with removing_image(name) as alone:
                info = self._engine.find_image(name) if alone else None
                if info is None or _other_names(info, name):
                    continue
                if isinstance(image.environment.recipe, SdistRecipe):
                    if info.labels.get(IMAGE_LABEL) != "1":
                        continue
                elif self._why_not_pulled_again(name, info) or self._lost(name):
                    continue
                if not self._built_on(info, besides={info.id}):
                    self._ledger.note_layers(name, self._engine.image_layers(name))
                    self._engine.remove_image(name)


def _other_names(info: ImageInfo, name: str) -> list[str]:
    return sorted(other for other in info.names if canonical(other) != canonical(name))
