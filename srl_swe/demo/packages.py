"""The packages that the demo breaks and repairs: pure Python, without requirements, tests in the source distribution.

Holds pins only. The package index serves the files when an image is built; none of their code is kept here.
"""

from dataclasses import dataclass

from srl_swe.types import SdistRecipe

WORKDIR = "/testbed"
PYTHON_VERSION = "3.11"
INSTALL_COMMAND = "python -m pip install --no-build-isolation --no-deps -e ."
TEST_RUNNER = ("iniconfig==2.3.1", "packaging==24.2", "pluggy==1.7.0", "pytest==8.3.4")


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoPackage:
    """A source distribution whose own tests can prove that a change is a bug."""

    name: str
    version: str
    license: str
    repo: str
    """Owner and name of the upstream repository, for the rows; never contacted."""
    sdist_sha256: str
    requirements: tuple[str, ...]
    """Full pinned closure: test runner and build backend."""
    test_file_of: tuple[tuple[str, str], ...]
    """Pairs (source file, the test file that covers it); only these source files get bugs."""

    @property
    def sdist_filename(self) -> str:
        return f"{self.name}-{self.version}.tar.gz"

    def test_command(self, source_file: str) -> str:
        """Return the command that judges a change of `source_file`; its summary names every test (`-rA`)."""
        return f"python -m pytest -rA -p no:cacheprovider {dict(self.test_file_of)[source_file]}"

    def recipe(self, bug_patch: str) -> SdistRecipe:
        """Return how to build the image of this package with `bug_patch` applied ("" = the package as published)."""
        return SdistRecipe(
            package=self.name,
            version=self.version,
            sdist_filename=self.sdist_filename,
            sdist_sha256=self.sdist_sha256,
            requirements=self.requirements,
            install_command=INSTALL_COMMAND,
            bug_patch=bug_patch,
        )


TOOLZ = DemoPackage(
    name="toolz",
    version="1.0.0",
    license="BSD-3-Clause",
    repo="pytoolz/toolz",
    sdist_sha256="2c86e3d9a04798ac556793bced838816296a2f085017664e4995cb40a1047a02",
    requirements=(*TEST_RUNNER, "setuptools==75.8.0", "wheel==0.45.1"),
    test_file_of=tuple(
        (f"toolz/{module}.py", f"toolz/tests/test_{module}.py") for module in ("dicttoolz", "functoolz", "itertoolz")
    ),
)

BOLTONS = DemoPackage(
    name="boltons",
    version="25.0.0",
    license="BSD-3-Clause",
    repo="mahmoud/boltons",
    sdist_sha256="e110fbdc30b7b9868cb604e3f71d4722dd8f4dcb4a5ddd06028ba8f1ab0b5ace",
    requirements=(*TEST_RUNNER, "flit_core==3.10.1"),
    test_file_of=tuple(
        (f"boltons/{module}.py", f"tests/test_{module}.py")
        for module in ("cacheutils", "dictutils", "ioutils", "iterutils", "mathutils", "strutils", "urlutils")
    ),
)

PACKAGES = (TOOLZ, BOLTONS)
