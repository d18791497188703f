"""Is an image what its instances need? Its identity, and what evaluation scripts rely on, looked at in a container.

The container has no network and no rights. Left out: whether the gold patch resolves (`srl-swe eval --gold`).
"""

import shlex
from dataclasses import dataclass

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine, ImageInfo
from srl_swe.environments.image_ledger import ImageLedger
from srl_swe.environments.image_references import ImageReference
from srl_swe.environments.image_uses import using_images
from srl_swe.environments.limits import ContainerLimits
from srl_swe.errors import ContainerError
from srl_swe.types import Instance

_ACTIVATE = "/opt/miniconda3/bin/activate"
_PROGRAMS = ("git", "patch")
_LIMITS = ContainerLimits(lifetime_s=1800)
_CHECK_TIMEOUT_S = 300.0
_MAX_SHOWN = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFault:
    """Something that an image lacks."""

    image: str
    instance_id: str
    """Of the instance that it matters to; "" = all of the image."""
    what: str


def check_image(engine: Engine, ledger: ImageLedger, instances: list[Instance]) -> list[ImageFault]:
    """Return the faults of the image that these instances have in common.

    Raises:
        EngineUnavailableError: no engine answers.
        ContainerError: the engine failed in another way than by the image.
    """
    name = instances[0].environment.image
    with using_images(name):
        info = engine.find_image(name)
        if info is None:
            return [
                ImageFault(image=name, instance_id="", what="it is not in the engine; `srl-swe images pull` brings it")
            ]
        faults = [ImageFault(image=name, instance_id="", what=what) for what in _wrong_identity(info, name, ledger)]
        return faults + _wrong_content(engine, name, instances)


def _wrong_identity(info: ImageInfo, name: str, ledger: ImageLedger) -> list[str]:
    wrong = []
    wanted = ImageReference.parse(name).digest
    if wanted and info.digests and not any(digest.endswith(f"@{wanted}") for digest in info.digests):
        wrong.append(f"its digest is {', '.join(info.digests)}, and its name says {wanted}")
    record = ledger.find(name)
    if record.image_id and record.image_id != info.id:
        wrong.append(
            f"it was replaced: it is {info.id} now, and what was pulled from {record.pulled_from} is {record.image_id}"
        )
    return wrong


def _wrong_content(engine: Engine, name: str, instances: list[Instance]) -> list[ImageFault]:
    try:
        container = Container.start(engine, name, limits=_LIMITS, name_hint="verify")
    except ContainerError as error:
        if not any(words in str(error).lower() for words in ("no such file", "not found", "not executable")):
            raise
        return [ImageFault(image=name, instance_id="", what=f"/bin/bash does not start: {_short(str(error))}")]
    faults: dict[str, list[str]] = {}
    with container:
        for instance in instances:
            for what in _problems(container, instance):
                faults.setdefault(what, []).append(instance.instance_id)
    found = []
    for what, ids in faults.items():
        if len(ids) == len(instances):
            found.append(ImageFault(image=name, instance_id="", what=what))
        else:
            found += [ImageFault(image=name, instance_id=instance_id, what=what) for instance_id in ids]
    return found


def _problems(container: Container, instance: Instance) -> list[str]:
    def says(script: str) -> tuple[bool, str]:
        result = container.execute(["/bin/bash", "-c", script], timeout_s=_CHECK_TIMEOUT_S)
        return result.exit_code == 0, _short(result.output)

    problems = []
    for program in _PROGRAMS:
        if not says(f"command -v {program}")[0]:
            problems.append(f"the program {program} is missing")
    environment = instance.environment
    tree = shlex.quote(environment.workdir)
    git = f"git -c safe.directory='*' -C {tree}"
    if not says(f"test -d {tree}")[0]:
        problems.append(f"{environment.workdir} is missing")
    elif "the program git is missing" not in problems:
        good, said = says(f"{git} rev-parse --verify -q 'HEAD^{{commit}}'")
        if not good:
            problems.append(f"{environment.workdir} is no git work tree with a commit: {said or 'git finds no HEAD'}")
        commit = instance.base_commit
        if good and commit and not says(f"{git} merge-base --is-ancestor {shlex.quote(commit)} HEAD")[0]:
            problems.append(f"HEAD of {environment.workdir} ({said}) does not contain the base commit {commit}")
    script = instance.tests.script + environment.activate
    if _ACTIVATE in script and not says(f"test -r {_ACTIVATE}")[0]:
        problems.append(f"{_ACTIVATE} is missing, and the evaluation script sources it")
    elif environment.activate:
        good, said = says(f"cd {tree}; set -e; {environment.activate}")
        if not good:
            problems.append(f"the shell cannot be set up as the evaluation script does ({said})")
    return problems


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}…"
