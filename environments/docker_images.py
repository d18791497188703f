"""Images of Docker and Podman: their names, their layers with sizes, and pulls whose failures are told apart.

The SDK's own pull takes a failure in the middle for an image that is missing, and has no time limit. Left out:
when to pull again (`image_pulls.py`).
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import requests
from docker.api.client import APIClient
from docker.auth import get_config_header
from docker.errors import APIError, ImageNotFound

from srl_swe.environments.engine import ImageInfo, ImageLayer, PullProgress
from srl_swe.environments.image_references import ImageReference
from srl_swe.errors import DiskFullError, ImageError, PullThrottledError

_CONNECT_S = 60.0
_SILENCE_S = 900.0
"""A pull that says nothing for so long hangs; unpacking one large file is silent for a while."""
_THROTTLED = re.compile(r"toomanyrequests|too many requests|rate limit|\b429\b", re.IGNORECASE)
_DISK_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_METADATA = re.compile(
    r"^(/bin/sh -c #\(nop\)\s+)?"
    r"(ARG|CMD|ENTRYPOINT|ENV|EXPOSE|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|SHELL|STOPSIGNAL|USER|VOLUME)\b"
)


class DockerImages:
    """The images of one engine. Raises what the SDK raises, besides what is said."""

    def __init__(self, api: APIClient) -> None:
        self._api = api
        self._layers: dict[str, tuple[ImageLayer, ...]] = {}
        """By id: an image never changes."""

    def find(self, name: str) -> ImageInfo | None:
        """Return the image of that name or id, None where there is none."""
        try:
            found: dict[str, Any] = self._api.inspect_image(name)
        except ImageNotFound:
            return None
        return _info(found, (found["Config"] or {}).get("Labels"))

    def all(self) -> list[ImageInfo]:
        """Return every image, also those without a name that others are built on."""
        return [_info(row, row["Labels"]) for row in self._api.images(all=True)]

    def tag(self, name: str, new_name: str) -> None:
        """Give an image one more name."""
        reference = ImageReference.parse(new_name)
        self._api.tag(name, reference.repository_name, tag=reference.tag, force=True)

    def layers(self, name: str) -> tuple[ImageLayer, ...]:
        """Return the layers, lowest first; () where there is no such image.

        A layer is known by its own digest and those below it, as the engine's store keeps it.
        """
        if name in self._layers:
            return self._layers[name]
        try:
            found = self._api.inspect_image(name)
            if found["Id"] not in self._layers:
                keys = chain_keys((found.get("RootFS") or {}).get("Layers") or [])
                sizes = _sizes(self._history(found["Id"]), len(keys), total=found["Size"])
                self._layers[found["Id"]] = tuple(
                    ImageLayer(key=key, size_bytes=size) for key, size in zip(keys, sizes, strict=True)
                )
        except ImageNotFound:
            return ()
        return self._layers[found["Id"]]

    def _history(self, image_id: str) -> list[dict[str, Any]]:
        try:
            history: list[dict[str, Any]] = self._api.history(image_id)
        except APIError:
            return []  # Podman 4.3 fails where a step has no time
        return history

    def pull(self, name: str, progress: Callable[[PullProgress], None] | None) -> None:
        """Pull once; see `Engine.pull_image`."""
        try:
            response = self._open_pull(ImageReference.parse(name))
        except APIError as error:
            raise _pull_error(name, str(error.explanation or error)) from error
        with contextlib.closing(response):
            try:
                _follow(response, name, progress)
            except requests.exceptions.RequestException as error:
                # Where the engine is gone, the next call finds that out.
                raise _pull_error(name, f"the engine broke off: {error}") from error
        if self.find(name) is None:
            raise _pull_error(name, "the engine ended the pull without the image")

    def _open_pull(self, reference: ImageReference) -> requests.Response:
        header = get_config_header(self._api, reference.registry)
        # The SDK's pull has no time limit.
        response: requests.Response = self._api._post(
            self._api._url("/images/create"),
            params={"fromImage": reference.repository_name, "tag": reference.digest or reference.tag},
            headers={"X-Registry-Auth": header} if header else {},
            stream=True,
            timeout=(_CONNECT_S, _SILENCE_S),
        )
        try:
            self._api._raise_for_status(response)
        except APIError:
            response.close()
            raise
        return response


def chain_keys(digests: Sequence[str]) -> list[str]:
    """Return what tells each layer apart in a store: the digest of the layer and of all below it."""
    keys: list[str] = []
    for digest in digests:
        below = f"{keys[-1]} " if keys else ""
        keys.append(f"sha256:{hashlib.sha256(f'{below}{digest}'.encode()).hexdigest()}" if keys else digest)
    return keys


def _info(row: Mapping[str, Any], labels: Mapping[str, str] | None) -> ImageInfo:
    names = [name for name in row.get("RepoTags") or () if name != "<none>:<none>"]
    digests = [digest for digest in row.get("RepoDigests") or () if not digest.startswith("<none>@")]
    return ImageInfo(
        id=row["Id"],
        size_bytes=row["Size"],
        labels=labels or {},
        names=tuple(names),
        digests=tuple(digests),
        # The list and the inspection of images call it differently.
        parent=row.get("ParentId") or row.get("Parent") or "",
    )


def _sizes(history: Sequence[Mapping[str, Any]], num_layers: int, *, total: int) -> list[int]:
    """Return each layer's bytes, lowest first, from a history that also tells of steps without a layer.

    It does not say which steps have none. Those with bytes have one; of the others those whose words say so.
    """
    steps = [(int(step.get("Size") or 0), str(step.get("CreatedBy") or "")) for step in reversed(history)]
    empty = num_layers - sum(size > 0 for size, _ in steps)
    if empty < 0:
        return [0] * (num_layers - 1) + [total]
    sizes = []
    for size, words in steps:
        if size > 0:
            sizes.append(size)
        elif empty and not _METADATA.match(words):
            empty -= 1
            sizes.append(0)
    if len(sizes) < num_layers:
        # What the history does not tell of is somewhere; at the top it is shared with nobody.
        sizes += [0] * (num_layers - len(sizes))
        sizes[-1] += max(0, total - sum(sizes))
    return sizes


def _follow(response: requests.Response, name: str, progress: Callable[[PullProgress], None] | None) -> None:
    done: dict[str, int] = {}
    totals: dict[str, int] = {}
    for message in _messages(response):
        if said := (message.get("errorDetail") or {}).get("message") or message.get("error"):
            raise _pull_error(name, str(said))
        layer, status = str(message.get("id") or ""), str(message.get("status") or "")
        detail = message.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            done[layer], totals[layer] = int(detail.get("current") or 0), int(detail["total"])
        elif status in ("Download complete", "Pull complete") and layer in totals:
            done[layer] = totals[layer]
        if progress is not None:
            progress(PullProgress(done_bytes=sum(done.values()), total_bytes=sum(totals.values())))


def _messages(response: requests.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line:
            try:
                message = json.loads(line)
            except ValueError as error:
                raise ImageError(f"the engine's word on a pull is cut off: {line[-200:]!r}") from error
            if isinstance(message, dict):
                yield message


def _pull_error(name: str, said: str) -> ImageError:
    if _DISK_FULL.search(said):
        return DiskFullError(
            f"the image {name} does not fit on the engine's disk ({said}). Make room (`srl-swe images gc` removes "
            "images that this tool pulled) or give --disk-budget, then run the same command again"
        )
    message = (
        f"the image {name} is not in the engine and could not be pulled ({said}). Pull it where a registry can be "
        f"reached (docker pull {name}), or bring it over as a file: docker save there, docker load here"
    )
    return PullThrottledError(message) if _THROTTLED.search(said) else ImageError(message)
