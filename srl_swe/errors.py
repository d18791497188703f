"""Every error that the project raises on purpose.

Each is also the standard library's error for its kind, so callers that know nothing of the project
can catch it. Messages say what, which one, what was expected, what was found and what to do.
"""


class SrlSweError(Exception):
    """Root of the project's errors; the command line prints its message without a stack trace."""


class DataError(SrlSweError, ValueError):
    """A file, row or field from outside is not what its format says."""


class ConfigError(SrlSweError, ValueError):
    """An option has a value outside its range, or options contradict each other."""


class MissingExtraError(SrlSweError, ImportError):
    """A package of an optional extra is not installed; the message names the extra."""


class MalformedCompletionError(SrlSweError, ValueError):
    """A completion does not keep the format; the message tells the model what was wrong."""


class ModelError(SrlSweError, ValueError):
    """A model directory lacks something that training or acting needs."""


class CheckpointError(SrlSweError, OSError):
    """A checkpoint could not be written or read; earlier checkpoints are untouched."""


class DivergenceError(SrlSweError, ArithmeticError):
    """Training produced a number that is not finite; the last checkpoint is untouched."""


class NoSignalError(SrlSweError, RuntimeError):
    """No group has carried signal for many iterations; the last state is saved."""


class MemoryExhaustedError(SrlSweError, MemoryError):
    """The machine's or the accelerator's memory does not hold what was asked for; the message names the options."""


class SamplerError(SrlSweError, RuntimeError):
    """The sampling engine failed; no rollout was recorded."""


class SamplerLostError(SamplerError):
    """The sampling engine's process or server is gone; the policy is whole, and another engine can go on."""


class EndpointError(SrlSweError, RuntimeError):
    """A model's endpoint failed, also after retries. Infrastructure: never a verdict; the next run tries again."""


class EndpointRefusedError(SrlSweError, RuntimeError):
    """An endpoint refuses every call (key, model or address): no episode can go on."""


class SpendingLimitError(SrlSweError, RuntimeError):
    """A call could cost more than is left of what a whole evaluation may cost; it was not made."""


class EpisodeOverError(SrlSweError, RuntimeError):
    """The episode has ended: submitted, or at a limit. Raised again by whatever an agent still tries."""

    def __init__(self, exit_status: str, message: str) -> None:
        """`exit_status` is one of `srl_swe.environments.recording.ExitStatus`."""
        super().__init__(message)
        self.exit_status = exit_status


class ContainerError(SrlSweError, RuntimeError):
    """Infrastructure failed: the engine, an image or a container. Never a reward, never a verdict."""


class EngineUnavailableError(ContainerError):
    """No container engine answers."""


class ImageError(ContainerError):
    """An image is missing and could be neither built nor pulled."""


class PullThrottledError(ImageError):
    """A registry asks for fewer pulls (429, toomanyrequests)."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        """`retry_after_s` is what the registry says; None = it does not say."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DiskFullError(ImageError):
    """The disk of the engine has no room for an image; to try again would not help."""


class EngineTimeoutError(ContainerError, TimeoutError):
    """The engine did not answer a call in time."""
