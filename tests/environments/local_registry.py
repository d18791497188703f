"""A registry on this machine: the read side of the distribution API, with failures on request, and images made here."""

import contextlib
import gzip
import hashlib
import io
import json
import random
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
PACKED_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PLAIN_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

GATED_BYTES = 100_000


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer as it is served; what it takes unpacked is known beforehand."""

    tar: bytes = field(repr=False)
    size_bytes: int
    """Of its files."""
    is_packed: bool = True
    digest: str = ""
    """Of the tar."""

    @classmethod
    def of(cls, tar: bytes, size_bytes: int, *, is_packed: bool = True) -> Self:
        return cls(tar=tar, size_bytes=size_bytes, is_packed=is_packed, digest=digest_of(tar))


def layer(name: str, size_bytes: int, *, is_packed: bool = True) -> Layer:
    """Return a layer with one file of noise, which no compression makes smaller."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = size_bytes
        archive.addfile(entry, io.BytesIO(random.Random(name).randbytes(size_bytes)))
    return Layer.of(tar.getvalue(), size_bytes, is_packed=is_packed)


@dataclass(kw_only=True, slots=True)
class LocalRegistry:
    """What is served, and how it fails. Change it while it serves."""

    host: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict, repr=False)
    manifests: dict[str, bytes] = field(default_factory=dict)
    """By "repository:tag" and "repository:sha256:…"."""
    requests: Counter[str] = field(default_factory=Counter)
    """By "METHOD path"."""
    throttled_until: float = 0.0
    """Monotonic time until which manifests are refused with 429."""
    retry_after: str = "1"
    token: str = ""
    """Asked for, and given at /token, where it is set."""
    cut: Counter[str] = field(default_factory=Counter)
    """Blob -> so many times its connection dies in the middle."""
    wrong: set[str] = field(default_factory=set)
    """Blobs that are served with other content."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Layers wait for it in the middle."""
    waiting: threading.Event = field(default_factory=threading.Event)
    """Set once a blob waits."""

    def put(
        self, repository: str, layers: Sequence[Layer], *, tag: str = "1", config: dict[str, Any] | None = None
    ) -> str:
        """Serve an image of these layers, lowest first; return its name."""
        step = {"created": "2026-01-01T00:00:00Z", "created_by": "COPY . /"}
        settings = {
            "architecture": "amd64",
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [each.digest for each in layers]},
            # As a Dockerfile leaves it: steps with a layer, and one without.
            "history": [*[step] * len(layers), {**step, "created_by": "CMD x", "empty_layer": True}],
        }
        described = json.dumps(settings).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._blob(CONFIG, described),
            "layers": [self._layer(each) for each in layers],
        }
        content = json.dumps(manifest).encode()
        self.manifests[f"{repository}:{tag}"] = self.manifests[f"{repository}:{digest_of(content)}"] = content
        return f"{self.host}/{repository}:{tag}"

    def put_index(self, repository: str, tag: str, **architectures: str) -> str:
        """Serve an index of images that are served already, given as architecture=tag; return its name."""
        entries = []
        for architecture, other in architectures.items():
            content = self.manifests[f"{repository}:{other}"]
            platform = {"os": "linux", "architecture": architecture}
            entries.append(
                {"mediaType": MANIFEST, "digest": digest_of(content), "size": len(content), "platform": platform}
            )
        content = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
        self.manifests[f"{repository}:{tag}"] = content
        return f"{self.host}/{repository}:{tag}"

    def _layer(self, layer: Layer) -> dict[str, Any]:
        if layer.is_packed:
            return self._blob(PACKED_LAYER, gzip.compress(layer.tar, compresslevel=1, mtime=0))
        return self._blob(PLAIN_LAYER, layer.tar, layer.digest)

    def _blob(self, kind: str, content: bytes, digest: str = "") -> dict[str, Any]:
        digest = digest or digest_of(content)
        self.blobs[digest] = content
        return {"mediaType": kind, "size": len(content), "digest": digest}


@contextmanager
def local_registry() -> Iterator[LocalRegistry]:
    """Serve on a free port of 127.0.0.1, which Docker speaks to without encryption."""
    registry = LocalRegistry()
    registry.gate.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            registry.requests[f"{self.command} {self.path}"] += 1
            words = self.path.strip("/").split("/")
            repository, kind, name = "/".join(words[1:-2]), words[-2] if len(words) > 2 else "", words[-1]
            if words[0].startswith("token?"):
                self._answer(200, json.dumps({"token": registry.token}).encode())
            elif registry.token and self.headers.get("Authorization") != f"Bearer {registry.token}":
                realm = (
                    f'Bearer realm="http://{registry.host}/token",service="here",scope="repository:{repository}:pull"'
                )
                self._answer(401, _error("UNAUTHORIZED"), {"WWW-Authenticate": realm})
            elif words == ["v2"]:
                self._answer(200, b"{}")
            elif kind == "manifests":
                self._manifest(registry.manifests.get(f"{repository}:{name}"))
            elif kind == "blobs" and name in registry.blobs:
                self._blob(name)
            else:
                self._answer(404, _error("BLOB_UNKNOWN"))

        def _manifest(self, content: bytes | None) -> None:
            if time.monotonic() < registry.throttled_until:
                self._answer(429, _error("TOOMANYREQUESTS"), {"Retry-After": registry.retry_after})
            elif content is None:
                self._answer(404, _error("MANIFEST_UNKNOWN"))
            else:
                kind = json.loads(content)["mediaType"]
                self._answer(200, content, {"Content-Type": kind, "Docker-Content-Digest": digest_of(content)})

        def _blob(self, digest: str) -> None:
            content = memoryview(registry.blobs[digest])
            if digest in registry.wrong:
                content = memoryview(bytes(len(content)))
            first = 0
            if given := self.headers.get("Range"):
                first = int(given.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if given else 200)
            self.send_header("Content-Length", str(len(content) - first))
            if given:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            middle = (first + len(content)) // 2
            self.wfile.write(content[first:middle])
            self.wfile.flush()
            if len(content) >= GATED_BYTES and not registry.gate.is_set():
                registry.waiting.set()
                registry.gate.wait(60)
            if registry.cut[digest] > 0:
                registry.cut[digest] -= 1
                self.close_connection = True
                return
            with contextlib.suppress(ConnectionError):  # whoever pulled may have been killed meanwhile
                self.wfile.write(content[middle:])

        def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield registry
        finally:
            registry.gate.set()
            server.shutdown()


def _error(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
