"""Supervised reinforcement learning for software-engineering agents.

Importing this package registers the environment id "srl_swe/SWE-v0" with Gymnasium and nothing else.
"""

from importlib.metadata import PackageNotFoundError, version

from gymnasium.envs.registration import register

try:
    __version__ = version("srl-swe")
except PackageNotFoundError:  # an uninstalled checkout on sys.path
    __version__ = "0+uninstalled"

register(
    id="srl_swe/SWE-v0",
    entry_point="srl_swe.environments.swe_env:SWEEnv",
    nondeterministic=True,
)
