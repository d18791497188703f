"""Whether `accelerate launch` started this process as one of several. Leaves out what they do."""

import os


def is_one_of_several() -> bool:
    """Whether this process has others beside it that do the same command."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this is the process that speaks for all."""
    return os.environ.get("RANK", "0") == "0"
