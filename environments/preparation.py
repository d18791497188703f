"""What is done once to an image before its first episode, kept as an image of its own.

The programs for agents are put in, the history after HEAD is taken out, the work tree is handed to the user
that commands run as. Left out: how the image comes to be (`images.py`), containers ready for an episode
(`sessions.py`).
"""

import base64
import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files

from srl_swe.environments.container import Container
from srl_swe.environments.downloads import file_lock
from srl_swe.environments.engine import Engine
from srl_swe.environments.images import PARENT_LABEL
from srl_swe.environments.limits import ROOT, ContainerLimits
from srl_swe.environments.worktree import FORGET_SCRIPT, WorkTreeBase, forget_history, record_base
from srl_swe.errors import ContainerError
from srl_swe.types import InstanceEnvironment

PREPARED_LABEL = "srl_swe.prepared"
"""On a prepared image: the digest of our part in it, so that those of older versions can be told."""

_BASE_LABEL = "srl_swe.base"
_TOOL_FOLDER = "/usr/local/bin"
_TOOLS = ("edit", "submit")
# Root without capabilities could give nothing away.
_HANDING_OVER = ("CHOWN", "DAC_OVERRIDE", "FOWNER")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedImage:
    """An image that an episode can start from as it is."""

    name: str
    base: WorkTreeBase


def find_prepared(engine: Engine, environment: InstanceEnvironment, user: str) -> PreparedImage | None:
    """Return the prepared image of an environment whose own image the engine has, None where there is none yet."""
    parent = engine.find_image(environment.image)
    if parent is None:
        return None
    name = _name(parent.id, environment.workdir, user)
    image = engine.find_image(name)
    return None if image is None else PreparedImage(name=name, base=_base_from(image.labels.get(_BASE_LABEL, "")))


def ensure_prepared(engine: Engine, environment: InstanceEnvironment, user: str) -> PreparedImage:
    """Return the prepared image of an environment after making it where it is missing.

    Any number of threads and processes may ask at once; one of them makes it.

    Raises:
        ImageError: the engine does not have the environment's own image.
        ContainerError: it cannot be prepared.
    """
    if found := find_prepared(engine, environment, user):
        return found
    with file_lock(f"prepared-{environment.image}"):
        if found := find_prepared(engine, environment, user):
            return found
        limits = ContainerLimits(disk_bytes=64 << 30, lifetime_s=3600)
        capabilities = () if user == ROOT else _HANDING_OVER
        with Container.start(
            engine, environment.image, limits=limits, name_hint="prepare", capabilities=capabilities
        ) as container:
            base = prepare(container, environment, user)
            parent = engine.find_image(environment.image)
            if parent is None:
                raise ContainerError(f"the image {environment.image} was removed while it was prepared; run again")
            name = _name(parent.id, environment.workdir, user)
            labels = {
                PREPARED_LABEL: tools_digest(),
                PARENT_LABEL: parent.id,
                _BASE_LABEL: base64.b64encode(json.dumps(asdict(base)).encode()).decode(),
            }
            container.commit(name, labels=labels)
        _log.info("prepared %s as %s", environment.image, name)
        return PreparedImage(name=name, base=base)


def prepare(container: Container, environment: InstanceEnvironment, user: str) -> WorkTreeBase:
    """Make a container of the environment's own image ready for an agent; nothing of an agent's may have run in it.

    Raises:
        ContainerError: the work tree is no git repository with a commit, or the image lacks git or bash.
    """
    container.write_files({f"{_TOOL_FOLDER}/{name}": data for name, data in _tools().items()}, mode=0o755)
    forget_history(container, environment.workdir)
    if user != ROOT:
        result = container.execute(["chown", "-R", user, environment.workdir], timeout_s=600)
        if result.exit_code != 0:
            raise ContainerError(f"{environment.workdir} cannot be given to user {user}: {result.output[-500:]}")
    return record_base(container, environment.workdir)


def collect_prepared(engine: Engine, *, every: bool) -> list[str]:
    """Remove prepared images that nothing can use any more, or every one, and return their ids.

    Raises:
        ContainerError: the engine failed.
    """
    removed = []
    for image in engine.list_images(PREPARED_LABEL):
        digest, parent = image.labels[PREPARED_LABEL], image.labels.get(PARENT_LABEL, "")
        if not digest:  # a snapshot, which has blanked the label
            continue
        useless = digest != tools_digest() or not parent or engine.find_image(parent) is None
        if (every or useless) and engine.remove_image(image.id):
            removed.append(image.id)
    return removed


@cache
def _tools() -> dict[str, bytes]:
    return {name: (files("srl_swe") / "docker" / name).read_bytes() for name in _TOOLS}


@cache
def tools_digest() -> str:
    """Return a digest of everything that decides what preparation does."""
    parts = [*_tools().values(), FORGET_SCRIPT.encode(), b"1"]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _name(parent_id: str, workdir: str, user: str) -> str:
    digest = hashlib.sha256(f"{parent_id}\0{workdir}\0{user}\0{tools_digest()}".encode()).hexdigest()[:16]
    return f"srl-swe/prepared:{digest}"


def _base_from(label: str) -> WorkTreeBase:
    try:
        return WorkTreeBase(**json.loads(base64.b64decode(label, validate=True)))
    except (ValueError, TypeError) as error:
        raise ContainerError(f"a prepared image carries the label {_BASE_LABEL}={label!r}; remove it") from error
