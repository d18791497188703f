"""Recipes: options of `srl-swe train` in a TOML file, `name = value` with the names of config.json.

A recipe stands in front of the command line: what is given there wins. Leaves out what the options mean.
"""

import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path

from srl_swe.errors import ConfigError

_OPTION = "--recipe"


def expand_recipe(arguments: Sequence[str], *, known: Collection[str]) -> list[str]:
    """Replace `--recipe FILE` by the options that the file holds, in front of all others.

    Raises:
        ConfigError: the file is missing or no TOML, or holds a name that is not `known` or a value that is no option.
    """
    words = list(arguments)
    places = [i for i, word in enumerate(words) if word == _OPTION or word.startswith(f"{_OPTION}=")]
    if not places:
        return words
    if len(places) > 1:
        raise ConfigError(f"{_OPTION} may be given once, found {len(places)} times")
    [place] = places
    if "=" in words[place]:
        path, rest = words[place].partition("=")[2], words[place + 1 :]
    elif place + 1 < len(words):
        path, rest = words[place + 1], words[place + 2 :]
    else:
        raise ConfigError(f"{_OPTION} needs a file, for example recipes/cpu-smoke.toml")
    return [*_options(Path(path), known), *words[:place], *rest]


def _options(path: Path, known: Collection[str]) -> list[str]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"recipe {path} cannot be read: {error}; the project's own are in recipes/") from error
    except ValueError as error:
        raise ConfigError(f"recipe {path} is no TOML: {error}; it holds lines such as learning_rate = 5e-7") from error
    unknown = sorted(values.keys() - set(known))
    if unknown:
        raise ConfigError(
            f"recipe {path} has {', '.join(unknown)}, which is no option of the command; `srl-swe train --help` names "
            "them, with - for _"
        )
    return [word for name, value in values.items() for word in _words(path, name, value)]


def _words(path: Path, name: str, value: object) -> list[str]:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [f"--{option}", *value]
    if isinstance(value, (int, float, str)):
        return [f"--{option}", str(value)]
    raise ConfigError(
        f"recipe {path}: {name} must be text, a number, true or false, or a list of texts, found {value!r}"
    )
