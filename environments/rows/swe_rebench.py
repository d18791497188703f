"""SWE-rebench rows: SWE-bench's columns, an image of their own, and how tests are run in `install_config`.

Data sets on the hub: nebius/SWE-rebench (split `filtered` has the rows with images), nebius/SWE-rebench-leaderboard.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from srl_swe.environments.rows.fields import NonEmpty, has, name_of, validated
from srl_swe.environments.rows.patched import PatchedRow, patched_instance
from srl_swe.environments.rows.scripts import read_patched_tests
from srl_swe.errors import DataError
from srl_swe.types import Instance


def _commands(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


class _InstallConfig(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    test_cmd: NonEmpty
    log_parser: NonEmpty
    install: Annotated[list[str], BeforeValidator(_commands)] = []
    eval_commands: Annotated[list[str], BeforeValidator(_commands)] = []


class _SweRebenchRow(PatchedRow):
    install_config: _InstallConfig
    image_name: str | None = None
    docker_image: str | None = None


def is_swe_rebench(row: Mapping[str, Any]) -> bool:
    """Tell a SWE-rebench row by its columns."""
    return has(row, "test_patch", "base_commit", "install_config")


def read_swe_rebench(raw: Mapping[str, Any], where: str) -> Instance:
    """Turn a SWE-rebench row into an instance.

    Raises:
        DataError: a field is missing or wrong, there is no image, or the test patch brings no tests.
    """
    row = validated(_SweRebenchRow, raw, where)
    image = row.image_name or row.docker_image
    if not image:
        raise DataError(
            f"{name_of(raw, where)}: fields `image_name` and `docker_image`: expected an image in one of them, found"
            " none; take rows that have one (nebius/SWE-rebench:filtered, nebius/SWE-rebench-leaderboard:test)"
        )
    patch = read_patched_tests(row.test_patch)
    if not patch.directives:
        raise DataError(f"{name_of(raw, where)}: field `test_patch`: expected files of tests, found only data")
    config = row.install_config
    return patched_instance(
        row,
        patch,
        image=image,
        command=f"{config.test_cmd} {patch.arguments}",
        parser=config.log_parser,
        before=(*config.eval_commands, *_installation(config.install, has_network=bool(row.network))),
    )


def _installation(commands: list[str], *, has_network: bool) -> list[str]:
    """Return the commands; without a network pip is told so, as it would try for half a minute otherwise."""
    if has_network or not commands:
        return commands
    return ["export PIP_NO_INDEX=1", *commands, "unset PIP_NO_INDEX"]
