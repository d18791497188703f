"""What a registry says of an image before it is pulled: its layers and their sizes, and whether it still serves it.

Reads manifests and configurations by the distribution API (v2); layers are pulled by the engine. Leaves out pushing,
and when to ask (`image_sizes.py`, `image_eviction.py`).
"""

import base64
import email.utils
import hashlib
import ipaddress
import json
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from docker.auth import load_config, resolve_authconfig
from docker.errors import DockerException
from requests.utils import parse_dict_header

from srl_swe.environments.image_references import ImageReference
from srl_swe.errors import ImageError, PullThrottledError

_TIMEOUT_S = 30.0
_MAX_DOCUMENT_BYTES = 8 << 20
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PACKED = ("gzip", "zstd")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteLayer:
    """A layer as a registry has it."""

    diff_id: str
    """Digest of the unpacked layer, which is the same however it is packed."""
    size_bytes: int
    """To be downloaded."""
    packed: bool
    """Whether it is compressed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteImage:
    """An image as a registry has it."""

    digest: str
    """Of what its name means there: an index or a manifest."""
    layers: tuple[RemoteLayer, ...]
    """Lowest first."""


class RegistryUnreachableError(ImageError):
    """No registry answers at an address: it need not be asked for other images."""

    def __init__(self, host: str, message: str) -> None:
        super().__init__(message)
        self.host = host


class NoSuchImageError(ImageError):
    """A registry says that it does not have the image."""


class Registries:
    """Reads registries with the credentials that the Docker client knows. Safe for threads."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._tokens: dict[tuple[str, str], str] = {}
        """Authorization by (host, repository)."""

    def find(self, name: str, *, architecture: str) -> RemoteImage:
        """Return what an image consists of; `architecture` in the words of `uname -m`.

        Costs a pull by the count of registries that limit them, as they count manifests.

        Raises:
            PullThrottledError: the registry asks for fewer requests.
            ImageError: it does not answer, or has no such image for this architecture.
        """
        reference = ImageReference.parse(name)
        answer = self._get(reference, f"manifests/{reference.version}", accept=(*_INDEXES, *_MANIFESTS))
        digest = _digest(answer.content)
        if reference.digest and digest != reference.digest:
            raise ImageError(f"{name}: the registry answered with a manifest of digest {digest}")
        document = _document(answer, name)
        if "manifests" in document:
            wanted = _of_architecture(document, architecture, name)
            answer = self._get(reference, f"manifests/{wanted}", accept=_MANIFESTS)
            if _digest(answer.content) != wanted:
                raise ImageError(f"{name}: the registry answered with a manifest that is not {wanted}")
            document = _document(answer, name)
        try:
            config = str(document["config"]["digest"])
            settings = _document(self._get(reference, f"blobs/{config}", accept=("*/*",), digest=config), name)
            diff_ids = [str(diff_id) for diff_id in settings["rootfs"]["diff_ids"]]
            layers = tuple(
                RemoteLayer(
                    diff_id=diff_id,
                    size_bytes=max(0, int(layer["size"])),
                    packed=any(word in str(layer["mediaType"]) for word in _PACKED),
                )
                for diff_id, layer in zip(diff_ids, document["layers"], strict=True)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(
                f"{name}: the registry's manifest cannot be read ({type(error).__name__}: {error})"
            ) from error
        return RemoteImage(digest=digest, layers=layers)

    def serves(self, name: str, digest: str) -> bool | None:
        """Tell whether the name means `digest` in its registry now; None where the registry does not say.

        Not counted as a pull.
        """
        try:
            reference = ImageReference.parse(name)
            answer = self._request("HEAD", reference, f"manifests/{reference.version}", accept=(*_INDEXES, *_MANIFESTS))
        except NoSuchImageError:
            return False
        except ImageError:
            return None
        return answer.headers.get("Docker-Content-Digest") == digest

    def retry_after_s(self, name: str) -> float | None:
        """Return how long a registry wants to be left alone, None where it does not say that now.

        Docker does not pass on what a registry says with a refusal, so it is asked once more; not counted as a pull.
        """
        try:
            reference = ImageReference.parse(name)
            self._request("HEAD", reference, f"manifests/{reference.version}", accept=(*_INDEXES, *_MANIFESTS))
        except PullThrottledError as error:
            return error.retry_after_s
        except ImageError:
            return None
        return None

    def _get(
        self, reference: ImageReference, place: str, *, accept: tuple[str, ...], digest: str = ""
    ) -> requests.Response:
        answer = self._request("GET", reference, place, accept=accept)
        if digest and _digest(answer.content) != digest:
            raise ImageError(
                f"{reference.host}/{reference.path}: the registry answered with something else than {digest}"
            )
        return answer

    def _request(
        self, method: str, reference: ImageReference, place: str, *, accept: tuple[str, ...]
    ) -> requests.Response:
        host, path = reference.host, reference.path
        url = f"{_scheme(host)}://{host}/v2/{path}/{place}"
        what = f"the registry {host}, asked for {path} {place}"
        try:
            for attempt in range(2):
                headers = {"Accept": ", ".join(accept)}
                if authorization := self._tokens.get((host, path)):
                    headers["Authorization"] = authorization
                answer = self._session.request(method, url, headers=headers, timeout=_TIMEOUT_S, stream=True)
                with answer:
                    if answer.status_code == 401 and attempt == 0:
                        self._authorize(reference, answer.headers.get("WWW-Authenticate", ""))
                        continue
                    if method == "GET" and answer.ok:
                        _read(answer, what)
                break
        except requests.exceptions.RequestException as error:
            raise RegistryUnreachableError(host, f"{what}, does not answer: {_reason(error)}") from error
        if answer.status_code == 429:
            raise PullThrottledError(
                f"{what}, asks for fewer requests (429)", retry_after_s=_seconds(answer.headers.get("Retry-After"))
            )
        if not answer.ok:
            hint = (
                "; log in with `docker login` if the repository is private" if answer.status_code in (401, 403) else ""
            )
            kind = NoSuchImageError if answer.status_code == 404 else ImageError
            raise kind(f"{what}, answered {answer.status_code}{hint}")
        return answer

    @property
    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session

    def _authorize(self, reference: ImageReference, challenge: str) -> None:
        """Get what the registry asks for: a token, with the user's credentials where there are some."""
        kind, _, rest = challenge.partition(" ")
        user = _credentials(reference.registry)
        if kind.lower() == "basic" and user:
            pair = base64.b64encode(":".join(user).encode()).decode()
            self._tokens[reference.host, reference.path] = f"Basic {pair}"
            return
        words = parse_dict_header(rest)
        realm = str(words.get("realm") or "")
        parts = urllib.parse.urlsplit(realm)
        if kind.lower() != "bearer" or not parts.hostname:
            return
        secret = user if parts.scheme == "https" or _is_loopback(parts.hostname) else None
        scope = words.get("scope") or f"repository:{reference.path}:pull"
        asked = {"service": words.get("service") or "", "scope": scope}
        answer = self._session.get(realm, params=asked, auth=secret, timeout=_TIMEOUT_S)
        if answer.ok:
            said = _document(answer, reference.path)
            token = said.get("token") or said.get("access_token") or ""
            self._tokens[reference.host, reference.path] = f"Bearer {token}"


def _credentials(registry: str) -> tuple[str, str] | None:
    try:
        found = resolve_authconfig(load_config(), registry) or {}
    except DockerException:
        return None
    name, password = found.get("username") or found.get("Username"), found.get("password") or found.get("Password")
    return (str(name), str(password)) if name and password else None


def _scheme(host: str) -> str:
    """As Docker does: only a registry on this machine is spoken to without encryption."""
    return "http" if _is_loopback(urllib.parse.urlsplit(f"//{host}").hostname or "") else "https"


def _is_loopback(hostname: str) -> bool:
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"


def _reason(error: requests.exceptions.RequestException) -> str:
    """Return what urllib3 found, without what it tried before."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", None) or inner)


def _read(answer: requests.Response, what: str) -> None:
    """Read a document whose length its sender decides."""
    content = b""
    for chunk in answer.iter_content(1 << 16):
        content += chunk
        if len(content) > _MAX_DOCUMENT_BYTES:
            raise ImageError(f"{what}, answers with more than {_MAX_DOCUMENT_BYTES} bytes")
    answer._content = content


def _document(answer: requests.Response, name: str) -> dict[str, Any]:
    try:
        found = json.loads(answer.content)
    except ValueError as error:
        raise ImageError(f"{name}: the registry's answer is no JSON: {answer.content[:200]!r}") from error
    if not isinstance(found, dict):
        raise ImageError(f"{name}: the registry's answer is no JSON object")
    return found


def _of_architecture(index: Mapping[str, Any], architecture: str, name: str) -> str:
    wanted = _ARCHITECTURES.get(architecture, architecture)
    entries = [entry for entry in index["manifests"] or () if isinstance(entry, Mapping)]
    for entry in entries:
        platform = entry.get("platform") or {}
        if platform.get("architecture") == wanted and platform.get("os") == "linux":
            return str(entry.get("digest"))
    there = sorted({str((entry.get("platform") or {}).get("architecture")) for entry in entries})
    raise ImageError(f"{name}: the registry has it for {', '.join(there) or 'nothing'}, not for linux/{wanted}")


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _seconds(text: str | None) -> float | None:
    """Return what Retry-After says: seconds, or a date."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
