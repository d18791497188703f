"""The environment as mini-swe-agent's agents see theirs (its `Environment` protocol, releases 2.x).

Left out: the agent, its model and its prompts, which stay mini-swe-agent's own.
"""

import platform
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym

from srl_swe.environments.swe_env import SUBMIT, SWEEnv
from srl_swe.errors import ConfigError, MissingExtraError

try:
    from minisweagent.exceptions import LimitsExceeded, Submitted
except ImportError as error:
    raise MissingExtraError("mini-swe-agent is not installed; pip install 'mini-swe-agent>=2.4,<3'") from error

MARKER = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
"""First line of the output of a command that submits, in mini-swe-agent's prompts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniConfig:
    """What prompts may say of the environment, and what a saved trajectory tells."""

    instance_id: str
    image: str
    cwd: str
    """The work tree, where the first command runs."""


class MiniSweAgentEnvironment:
    """Runs an agent's commands in an episode that `env.reset()` has started.

    Unlike mini-swe-agent's own environments it keeps one shell: directory and variables stay from command to command.
    An episode ends by a command whose output begins with the marker, or by `submit`; what is submitted and judged is
    the work tree, not what the command printed after the marker. A failure of the infrastructure is a ContainerError,
    which ends the agent's run: never an exit code.
    """

    def __init__(self, env: gym.Env[str, str]) -> None:
        """`env` may be wrapped; its owner closes it."""
        inner = env.unwrapped
        if not isinstance(inner, SWEEnv):
            raise ConfigError(f"MiniSweAgentEnvironment: expected an SWEEnv, wrapped or not, found {inner!r}")
        place = inner.instance.environment
        self.config = MiniConfig(instance_id=inner.instance.instance_id, image=place.image, cwd=place.workdir)
        self.reward = 0.0
        """Sum of the episode's rewards."""
        self.info: dict[str, Any] = {}
        """Of the last step; at the end it has the patch, and the verdict if there is one."""
        self._env = env

    def execute(self, action: Mapping[str, Any], cwd: str = "") -> dict[str, Any]:
        """Run a command, in the directory `cwd` where one is given.

        Raises:
            Submitted: this ended the episode.
            LimitsExceeded: the episode reached a limit of the environment or of a wrapper.
            ContainerError: the infrastructure failed.
        """
        command = str(action.get("command", ""))
        if command.strip() == f"echo {MARKER}":
            command = SUBMIT
        observation = self._step(f"cd -- {shlex.quote(cwd)}\n{command}" if cwd else command)
        if self.info["exit_code"] == 0 and observation.lstrip().split("\n", 1)[0].strip() == MARKER:
            self._step(SUBMIT)
        code = self.info["exit_code"]
        return {"output": observation, "returncode": -1 if code is None else code, "exception_info": ""}

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        """Return what prompts may name: the configuration, the system that the container runs on, and `kwargs`."""
        system = platform.uname()
        return {
            **asdict(self.config),
            "system": system.system,
            "release": system.release,
            "version": system.version,
            "machine": system.machine,
            **kwargs,
        }

    def serialize(self) -> dict[str, Any]:
        """Return what a saved trajectory tells of the environment."""
        kind = f"{type(self).__module__}.{type(self).__name__}"
        config = {"environment": asdict(self.config), "environment_type": kind}
        return {"instance_id": self.config.instance_id, "info": {"config": config}}

    def _step(self, action: str) -> str:
        observation, reward, terminated, truncated, self.info = self._env.step(action)
        self.reward += float(reward)
        if terminated or truncated:
            error = Submitted if terminated else LimitsExceeded
            patch = self.info.get("patch", "")
            extra = {"exit_status": error.__name__, "submission": patch}
            if "verdict" in self.info:
                extra["verdict"] = self.info["verdict"].status
            raise error({"role": "exit", "content": patch, "extra": extra})
        return observation
