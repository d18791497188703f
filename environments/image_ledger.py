"""What this tool pulled into an engine, and what it learned of images: by it an image is known to come back.

A file an image under the cache folder, so that threads and processes write apart from each other. An image that
somebody brought into the engine by other means has no record that fits it. Left out: deciding what is removed
(`image_eviction.py`).
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from srl_swe.environments.engine import ImageLayer
from srl_swe.environments.registry import RemoteImage
from srl_swe.files import write_atomically
from srl_swe.paths import cache_dir

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """What is known of an image by its name."""

    name: str
    pulled_from: str = ""
    """What this tool pulled: the name itself, or the one on a mirror. "" = it never pulled it."""
    digest: str = ""
    """Of what was pulled, as the registry calls it."""
    image_id: str = ""
    """What the engine made of it; "" while it is being pulled."""
    layers: tuple[ImageLayer, ...] = ()
    """As the engine had them when it was here last, lowest first."""
    remote: RemoteImage | None = None
    """As its registry described it last."""


_RECORD: TypeAdapter[ImageRecord] = TypeAdapter(ImageRecord)


class ImageLedger:
    """The records of one engine. Safe for threads and processes that write different images."""

    def __init__(self, engine_identity: str) -> None:
        """`engine_identity` is `Engine.identity`."""
        engine = hashlib.sha256(engine_identity.encode()).hexdigest()[:12]
        self._folder = cache_dir() / "images" / engine

    def find(self, name: str) -> ImageRecord:
        """Return what is known of an image; an empty record where nothing is."""
        path = self._path(name)
        try:
            record = _RECORD.validate_json(path.read_bytes())
        except FileNotFoundError:
            return ImageRecord(name=name)
        except (OSError, ValidationError) as error:
            LOGGER.warning("%s is damaged; the image %s counts as not pulled by this tool: %s", path, name, error)
            return ImageRecord(name=name)
        return record if record.name == name else ImageRecord(name=name)

    def note_pull(self, name: str, pulled_from: str) -> None:
        """Record that an image which the engine lacks is about to be pulled."""
        self._write(replace(self.find(name), pulled_from=pulled_from, digest="", image_id=""))

    def note_pulled(self, name: str, *, digest: str, image_id: str) -> None:
        """Record what came of the pull."""
        self._write(replace(self.find(name), digest=digest, image_id=image_id))

    def note_layers(self, name: str, layers: Sequence[ImageLayer]) -> None:
        """Record an image's layers, for the time when it is not here."""
        record = self.find(name)
        if record.layers != tuple(layers):
            self._write(replace(record, layers=tuple(layers)))

    def note_remote(self, name: str, remote: RemoteImage) -> None:
        """Record what the registry says of an image."""
        self._write(replace(self.find(name), remote=remote))

    def pulled_names(self) -> list[str]:
        """Return the names of all images that this tool pulled at some time."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                record = _RECORD.validate_json(path.read_bytes())
            except (OSError, ValidationError):
                continue  # `find` warns
            if record.pulled_from:
                found.append(record.name)
        return found

    def _write(self, record: ImageRecord) -> None:
        write_atomically(self._path(record.name), json.dumps(asdict(record), indent=1) + "\n")

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"
