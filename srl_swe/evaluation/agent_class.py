"""A Python class of someone else's as the agent: found by its name, made anew for each instance.

What it must have is `acting.InstanceAgent`.
"""

import importlib
import sys
from pathlib import Path

from srl_swe.errors import ConfigError
from srl_swe.evaluation.acting import InstanceAgent


def load_agent_class(name: str) -> type[InstanceAgent]:
    """Return the class that `module:Class` names; modules in the current folder are found too.

    Raises:
        ConfigError: there is no such class, it cannot be imported or made without arguments, or it has no `act`.
    """
    module_name, colon, class_name = name.partition(":")
    if not (module_name and colon and class_name):
        raise ConfigError(f"agent = {name!r}: expected module:Class, for example my_agent:MyAgent")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        raise ConfigError(f"agent = {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, type) or not callable(getattr(found, "act", None)):
        raise ConfigError(f"agent = {name!r}: expected a class with a method act(environment), found {found!r}")
    try:
        found()
    except Exception as error:
        raise ConfigError(
            f"agent = {name!r} cannot be made without arguments: {type(error).__name__}: {error}"
        ) from error
    return found
