"""Files from the package index, kept under the cache folder: wheels of a pinned closure, and source distributions.

Runs on the host, and runs no code of what it fetches: wheels come by `pip download` without any build, a source
distribution is taken straight from the index pages, because pip would run its build backend. The host's pip
configuration decides which indexes are asked. Leaves out credentials other than those inside an index URL.
"""

import ast
import base64
import fcntl
import hashlib
import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import IO

from srl_swe.errors import ImageError
from srl_swe.paths import cache_dir
from srl_swe.types import SdistRecipe

CONTAINER_PYTHON = "3.11"
"""Python of the base image (Debian bookworm)."""

CONTAINER_GLIBC_MINOR = 36
"""glibc of Debian bookworm is 2.36: the newest manylinux tag that its images can install."""

_DOWNLOAD_TIMEOUT_S = 900
_MAX_SDIST_BYTES = 500 << 20

_log = logging.getLogger(__name__)


@contextmanager
def file_lock(name: str) -> Iterator[None]:
    """Hold the lock of that name against all other threads and processes that share the cache folder."""
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_cached(recipe: SdistRecipe, *, machine: str) -> bool:
    """Tell whether all that a recipe is built from is here, so that no index is asked for it again."""
    sdist = cache_dir() / "sdists" / recipe.sdist_sha256 / recipe.sdist_filename
    return sdist.is_file() and _wheels_path(recipe.requirements, machine).is_dir()


def wheels_folder(requirements: tuple[str, ...], *, machine: str) -> Path:
    """Return a folder with one wheel per pinned requirement, for the containers' Python on Linux.

    `machine` is the wheel tags' word for the architecture, such as "x86_64" or "aarch64".

    Raises:
        ImageError: pip could not fetch all of them as wheels.
    """
    folder = _wheels_path(requirements, machine)
    key = folder.name
    with file_lock(f"wheels-{key}"):
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder.parent))
        try:
            if requirements:
                _pip_download(requirements, machine, unfinished)
            unfinished.replace(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return folder


def _wheels_path(requirements: tuple[str, ...], machine: str) -> Path:
    key = hashlib.sha256("\n".join([machine, CONTAINER_PYTHON, *sorted(requirements)]).encode()).hexdigest()[:16]
    return cache_dir() / "wheels" / key


def sdist_file(recipe: SdistRecipe) -> Path:
    """Return the recipe's source distribution as a local file whose sha256 has been verified.

    Raises:
        ImageError: no configured index has the file, or what it has differs.
    """
    target = cache_dir() / "sdists" / recipe.sdist_sha256 / recipe.sdist_filename
    with file_lock(f"sdist-{recipe.sdist_sha256[:16]}"):
        if target.is_file() and _sha256(target) == recipe.sdist_sha256:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        _log.info("fetching %s", recipe.sdist_filename)
        tried: list[str] = []
        settings = _pip_settings()
        for link in _links(settings, recipe, tried):
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as unfinished:
                try:
                    _copy(link, settings, unfinished)
                    unfinished.flush()
                    os.fsync(unfinished.fileno())
                    found = _sha256(Path(unfinished.name))
                    if found == recipe.sdist_sha256:
                        Path(unfinished.name).replace(target)
                        return target
                    tried.append(f"{_shown(link)}: sha256 is {found}")
                except (OSError, ValueError) as error:
                    tried.append(f"{_shown(link)}: {error}")
                finally:
                    Path(unfinished.name).unlink(missing_ok=True)
    raise ImageError(
        f"{recipe.sdist_filename} (sha256 {recipe.sdist_sha256}) could not be fetched by the host's pip configuration:"
        f" {'; '.join(tried) or 'no index or find-links location is configured'}. Check the index, or put the file at"
        f" {target} by hand"
    )


def _pip_download(requirements: tuple[str, ...], machine: str, folder: Path) -> None:
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(CONTAINER_GLIBC_MINOR, 4, -1)]
    platforms += [f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--python-version", CONTAINER_PYTHON, "--implementation", "cp"]
    command += [f"--platform={platform}" for platform in platforms]
    command += ["--dest", str(folder), "--", *requirements]
    _log.info("fetching %d wheels", len(requirements))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ImageError(
            f"pip download of {len(requirements)} wheels did not end within {_DOWNLOAD_TIMEOUT_S} s; is the index slow?"
        ) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING: Location")]
        raise ImageError(
            f"pip download could not fetch the wheels for Python {CONTAINER_PYTHON} on {machine} (exit code"
            f" {done.returncode}); every pin must have a wheel that the host's index offers:\n" + "\n".join(lines[-20:])
        )


def _pip_settings() -> dict[str, str]:
    """Return pip's own settings (index-url, extra-index-url, find-links, cert, no-index), the strongest source last."""
    shown = _pip_says("-m", "pip", "config", "list")
    ranked: list[tuple[int, str, str]] = []
    for line in shown.splitlines():
        place, _, value = line.partition("=")
        section, _, name = place.rpartition(".")
        if section in _RANKS and value:
            ranked.append((_RANKS[section], name, str(ast.literal_eval(value))))
    settings = {name: value for _, name, value in sorted(ranked)}
    if "index-url" not in settings:
        settings["index-url"] = _pip_says("-c", "from pip._internal.models.index import PyPI; print(PyPI.simple_url)")
    return settings


_RANKS = {"global": 0, "download": 1, ":env:": 2}


def _pip_says(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise ImageError(f"{sys.executable} has no usable pip ({done.stderr.strip()[-300:]}); install pip there")
    return done.stdout.strip()


def _links(settings: dict[str, str], recipe: SdistRecipe, tried: list[str]) -> Iterator[str]:
    """Yield URLs of files named like the recipe's, find-links first; why a place gave none goes to `tried`."""
    project = re.sub(r"[-_.]+", "-", recipe.package).lower()  # PEP 503
    pages = []
    for place in settings.get("find-links", "").split():
        url = place if "://" in place else Path(place).expanduser().absolute().as_uri()
        local = _local_path(url)
        if local is not None and local.is_dir():
            if (local / recipe.sdist_filename).is_file():
                yield (local / recipe.sdist_filename).as_uri()
        else:
            pages.append(url)
    if settings.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        for index in [*settings.get("index-url", "").split(), *settings.get("extra-index-url", "").split()]:
            pages.append(f"{index.rstrip('/')}/{project}/")
    for page in pages:
        yield from _links_of_page(page, settings, recipe.sdist_filename, tried)


def _links_of_page(page: str, settings: dict[str, str], filename: str, tried: list[str]) -> Iterator[str]:
    local = _local_path(page)
    source = (local / "index.html").as_uri() if local is not None and local.is_dir() else page
    try:
        with _open(source, settings) as answer:
            text = answer.read(_MAX_SDIST_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        tried.append(f"{_shown(page)}: {error}")
        return
    parser = _Anchors()
    parser.feed(text)
    found = [urllib.parse.urljoin(source, href).split("#", 1)[0] for href in parser.hrefs]
    found = [url for url in found if urllib.parse.unquote(url).rsplit("/", 1)[-1] == filename]
    if not found:
        tried.append(f"{_shown(page)}: does not list the file")
    yield from found


class _Anchors(HTMLParser):
    """Collects the targets of a page's links (the HTML form of the simple index, PEP 503)."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]


def _local_path(url: str) -> Path | None:
    parts = urllib.parse.urlsplit(url)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _open(url: str, settings: dict[str, str]) -> IO[bytes]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https", "file"):
        raise ValueError(f"expected an http, https or file URL, found {parts.scheme!r}")
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))
    if "html" not in parts.path.rsplit(".", 1)[-1] and parts.path.endswith("/"):
        request.add_header("Accept", "text/html")
    if parts.username:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    context = ssl.create_default_context(cafile=settings.get("cert")) if parts.scheme == "https" else None
    answer: IO[bytes] = urllib.request.urlopen(request, timeout=60, context=context)
    return answer


def _copy(url: str, settings: dict[str, str], target: IO[bytes]) -> None:
    size = 0
    with _open(url, settings) as answer:
        while block := answer.read(1 << 20):
            size += len(block)
            if size > _MAX_SDIST_BYTES:
                raise ValueError(f"larger than {_MAX_SDIST_BYTES} bytes")
            target.write(block)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
