"""Commands whose first word names another one: only the module of that is loaded."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tyro


@dataclass(frozen=True, kw_only=True, slots=True)
class Subcommands:
    """The sub-commands of a command."""

    prog: str
    """The command's own words, for example "srl-swe data"."""
    package: str
    """Where their modules are."""
    commands: Mapping[str, tuple[str, str, str]]
    """Name -> its module, its options, and what runs it."""

    def names(self, arguments: Sequence[str]) -> bool:
        """Whether the first word is a sub-command."""
        return bool(arguments) and arguments[0] in self.commands

    def run(self, arguments: Sequence[str]) -> int:
        """Run the sub-command that is named, or say which there are."""
        if self.names(arguments):
            config_type, runner = self._load(arguments[0])
            config: object = tyro.cli(config_type, prog=f"{self.prog} {arguments[0]}", args=list(arguments[1:]))
            return runner(config)
        types: dict[str, Callable[..., object]] = {name: self._load(name)[0] for name in self.commands}
        tyro.extras.subcommand_cli_from_dict(types, prog=self.prog, args=list(arguments))
        return 2

    def _load(self, name: str) -> tuple[type, Callable[[object], int]]:
        module_name, config_name, runner_name = self.commands[name]
        module = importlib.import_module(f"{self.package}.{module_name}")
        return getattr(module, config_name), getattr(module, runner_name)
