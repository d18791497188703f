"""Which way imports point: read from the source, so that a breach fails here and not in review."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "srl_swe.types",
        "srl_swe.errors",
        "srl_swe.paths",
        "srl_swe.files",
        "srl_swe.closing",
        "srl_swe.matching",
        "srl_swe.pool",
    ),
    ("srl_swe.prompts", "srl_swe.rewards", "srl_swe.trajectories"),
    ("srl_swe.environments",),
    ("srl_swe.training",),
    ("srl_swe.software_engineering", "srl_swe.hub", "srl_swe.pages"),
    ("srl_swe.evaluation",),
    ("srl_swe.curation",),
    ("srl_swe.demo",),
    ("srl_swe.cli",),
)
"""Lowest first; a module imports from its own layer's package or from lower layers only."""

LIGHT_PACKAGES_NEVER_IMPORT = {"torch", "transformers", "vllm", "datasets"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] in ("environments", "trajectories"):
        parts = ("srl_swe", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> list[Path]:
    folders = (ROOT / "srl_swe", ROOT / "environments", ROOT / "trajectories")
    # The symlinks inside srl_swe/ are not followed: each file is seen once, at its root.
    found = [path for folder in folders for path in folder.rglob("*.py")]
    links = [ROOT / "srl_swe" / name for name in ("environments", "trajectories", "docker")]
    return sorted(path for path in found if not any(path.is_relative_to(link) for link in links))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module: str) -> int | None:
    for index, prefixes in enumerate(LAYERS):
        if any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes):
            return index
    return None


def test_every_module_has_a_layer() -> None:
    homeless = [module for path in sources() if layer(module := module_name(path)) is None and module != "srl_swe"]
    assert not homeless


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_nothing_imports_upward(path: Path) -> None:
    own = layer(module_name(path))
    for imported in imports(path):
        other = layer(imported)
        assert own is None or other is None or other <= own, f"{module_name(path)} imports {imported}"


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_environments_and_trajectories_stay_light_and_apart(path: Path) -> None:
    module = module_name(path)
    names = set(imports(path))
    if module.startswith(("srl_swe.environments", "srl_swe.trajectories")):
        assert not {name.split(".")[0] for name in names} & LIGHT_PACKAGES_NEVER_IMPORT
    if module.startswith("srl_swe.environments"):
        assert not any(name.startswith("srl_swe.trajectories") for name in names)
    if not module.startswith("srl_swe.training.policy"):
        assert not any(name.startswith("transformers.AutoModel") for name in names) or module == "srl_swe.demo.model"


def test_there_is_no_package_that_shadows_the_docker_sdk() -> None:
    assert not (ROOT / "docker" / "__init__.py").exists()


def test_the_links_are_relative() -> None:
    for name in ("environments", "trajectories", "docker"):
        assert (ROOT / "srl_swe" / name).readlink() == Path("..") / name


def test_importing_the_package_is_light() -> None:
    import subprocess

    code = "import sys, srl_swe; print(sorted({'torch', 'transformers', 'swebench', 'docker'} & set(sys.modules)))"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"
