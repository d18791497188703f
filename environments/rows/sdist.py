"""Source-distribution rows, whose image is built from a package's sdist plus a bug patch."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from srl_swe.environments.image_names import instance_image_name, package_image_name
from srl_swe.environments.rows.fields import (
    NonEmpty,
    Row,
    TreePath,
    absolute,
    has,
    name_of,
    places_of_tests,
    validated,
    with_newline,
)
from srl_swe.environments.rows.scripts import plain_script
from srl_swe.errors import DataError
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests, SdistRecipe

MIN_SDIST_TIMEOUT_S = 120.0
SDIST_TIMEOUT_FACTOR = 20.0
"""An sdist row's tests may take this many times the slowest run that the row reports."""

_PARSERS = {"pytest": "parse_log_pytest"}


class _Package(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9.!+_-]+$")]
    sdist_filename: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]*\.tar\.(gz|bz2)$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Timings(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    bug_s: float = 0.0
    gold_s: list[float] = []


class _SdistRow(Row):
    package: _Package
    pip_requirements: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+$")]]
    install_cmd: NonEmpty
    workdir: Annotated[str, AfterValidator(absolute)] = "/testbed"
    test_cmd: NonEmpty
    test_files: list[TreePath]
    f2p_test_files: list[TreePath] = Field(default_factory=list)
    log_parser: NonEmpty = "pytest"
    bug_patch: NonEmpty
    timings: _Timings = _Timings()


def is_sdist(row: Mapping[str, Any]) -> bool:
    """Tell a source-distribution row by its columns."""
    return has(row, "bug_patch", "package")


def read_sdist(raw: Mapping[str, Any], where: str) -> Instance:
    """Turn a source-distribution row into an instance. Raises DataError where a field is missing or wrong."""
    row = validated(_SdistRow, raw, where)
    if row.log_parser not in _PARSERS:
        raise DataError(
            f"{name_of(raw, where)}: field `log_parser`: expected one of {sorted(_PARSERS)}, found {row.log_parser!r}"
        )
    recipe = SdistRecipe(
        package=row.package.name,
        version=row.package.version,
        sdist_filename=row.package.sdist_filename,
        sdist_sha256=row.package.sha256,
        requirements=tuple(row.pip_requirements),
        install_command=row.install_cmd,
        bug_patch=with_newline(row.bug_patch),
        hidden_paths=tuple(row.f2p_test_files),
    )
    files = [*row.test_files, *row.f2p_test_files]
    files += [test.split("::", 1)[0] for test in (*row.FAIL_TO_PASS, *row.PASS_TO_PASS) if ".py::" in test]
    slowest_s = max([row.timings.bug_s, *row.timings.gold_s])
    return Instance(
        instance_id=row.instance_id,
        repo=row.repo,
        base_commit="",
        problem_statement=row.problem_statement,
        environment=InstanceEnvironment(
            image=instance_image_name(recipe, row.workdir),
            workdir=row.workdir,
            recipe=recipe,
            network=tuple(row.network),
        ),
        tests=InstanceTests(
            script=plain_script(row.workdir, row.test_cmd),
            parser=_PARSERS[row.log_parser],
            fail_to_pass=tuple(row.FAIL_TO_PASS),
            pass_to_pass=tuple(row.PASS_TO_PASS),
            timeout_s=max(MIN_SDIST_TIMEOUT_S, SDIST_TIMEOUT_FACTOR * slowest_s),
            restore_paths=places_of_tests(files, name_of(raw, where)),
            restore_image=package_image_name(recipe, row.workdir),
        ),
        gold_patch=with_newline(row.patch),
        difficulty=row.difficulty or "",
    )
