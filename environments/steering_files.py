"""Files by which a patch could rewrite the outcome of tests without touching the code: which they are, and how a
pyproject.toml keeps all else that a patch did to it.

Left out: putting them back in a container (`patching.py`, `docker/apply-patch`).
"""

import re
import sys
import tomllib
from fnmatch import fnmatchcase
from typing import Any

_MODULES_THAT_STEER = ("conftest", "sitecustomize", "usercustomize")
NAMES = (
    *(f"{module}.{ending}" for module in _MODULES_THAT_STEER for ending in ("py", "pyc", "*so")),
    "pytest.ini",
    ".pytest.ini",
    "pytest.toml",
    ".pytest.toml",
    "tox.ini",
    "tox.toml",
    "setup.cfg",
    "pyproject.toml",
    "noxfile.py",
    ".coveragerc",
    "nose.cfg",
    ".noserc",
    "unittest.cfg",
    "*.pth",
    ".env",
    ".envrc",
    ".gitattributes",
    "runtests.py",
)
"""File names, as `find -name` reads them."""

PATHS = (
    *(f"*/{module}/*" for module in _MODULES_THAT_STEER),
    *("*/*.egg-info/*", "*/*.dist-info/*", "./bin/test"),
)
"""Paths in the work tree, as `find -path` reads them. Package metadata names the plugins that pytest loads."""

_HARMLESS = {"test", "this", "antigravity", "__main__"}
MODULES = (
    *sorted(sys.stdlib_module_names - _HARMLESS),
    *("_pytest", "pytest", "pluggy", "py", "iniconfig", "packaging", "exceptiongroup", "tomli", "attr", "attrs"),
    *("pygments", "colorama", "typing_extensions", "importlib_metadata", "zipp", "nose", "nose2", "django", "xdist"),
    *("execnet", "coverage", "pytest_cov", "pytest_asyncio", "pytest_mock", "hypothesis", "anyio", "mock", "six"),
    *("srl_swe_outcomes", "srl_swe_channel", "setuptools", "pkg_resources", "pip", "distutils", "imp"),
)
"""A new module of such a name, where it would be imported in the place of the real one, is removed."""

_OWN_TABLES = (("tool", "pytest"), ("tool", "coverage"), ("project", "entry-points", "pytest11"))
"""What of a pyproject.toml steers tests."""

_HEADER = re.compile(r"^[ \t]*\[\[?([^\[\]\n]+)\]\]?[ \t]*(?:#.*)?$", re.MULTILINE)


def steers_tests(path: str) -> bool:
    """Tell whether a file of the work tree steers tests by its name or place; modules that hide others are left out.

    >>> steers_tests("src/conftest.py"), steers_tests("tests/test_conf.py")
    (True, False)
    """
    name = path.rpartition("/")[2]
    placed = "./" + path.lstrip("/").removeprefix("./")
    return any(fnmatchcase(name, pattern) for pattern in NAMES) or any(fnmatchcase(placed, place) for place in PATHS)


def merge_pyproject(before: str, patched: str) -> str | None:
    r"""Return the patched text with the tables that steer tests as they were; None where that cannot be done for sure.

    >>> merge_pyproject("[tool.pytest.ini_options]\na = 1\n", "[x]\nb = 2\n[tool.pytest.ini_options]\na = 3\n")
    '[x]\nb = 2\n[tool.pytest.ini_options]\na = 1\n'
    """
    kept = "".join(text for name, text in _tables(patched) if not _steers(name))
    own = "".join(text for name, text in _tables(before) if _steers(name))
    merged = kept + ("\n" if kept and own and not kept.endswith("\n") else "") + own
    try:
        was, wanted, now = (tomllib.loads(text) for text in (before, patched, merged))
    except tomllib.TOMLDecodeError:
        return None
    same = all(_at(now, path) == _at(was, path) for path in _OWN_TABLES)
    return merged if same and _without_own(now) == _without_own(wanted) else None


def _tables(text: str) -> list[tuple[tuple[str, ...], str]]:
    """Return (name of the table, its text with the header) in order; what stands before the first has the name ()."""
    starts = [(0, ())] + [
        (match.start(), tuple(part.strip().strip("\"'") for part in match[1].split(".")))
        for match in _HEADER.finditer(text)
    ]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    return [(name, text[start:end]) for (start, name), end in zip(starts, ends, strict=True)]


def _steers(name: tuple[str, ...]) -> bool:
    return any(name[: len(own)] == own for own in _OWN_TABLES)


def _at(table: dict[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = table
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _without_own(table: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the table without what steers tests, and without tables that are empty then."""
    kept: dict[str, Any] = {}
    for name, value in table.items():
        here = (*path, name)
        if here in _OWN_TABLES:
            continue
        value = _without_own(value, here) if isinstance(value, dict) else value
        if value != {}:
            kept[name] = value
    return kept
