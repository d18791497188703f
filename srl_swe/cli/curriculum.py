"""`srl-swe train --curriculum srl,rlvr`: methods one after the other, each from the best model of the one before.

A stage is an ordinary run in a folder of its own, below the curriculum's. Leaves out what a run does.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from srl_swe.errors import ConfigError
from srl_swe.files import write_atomically
from srl_swe.training.config import Method

if TYPE_CHECKING:
    from srl_swe.training.trainer import TrainResult

_RECORD = "curriculum.json"


def parse_stages(text: str) -> tuple[Method, ...]:
    """Read the methods in their order.

    Raises:
        ConfigError: a name is no method, or comes twice.
    """
    stages = tuple(part.strip() for part in text.split(","))
    methods = get_args(Method)
    if any(stage not in methods for stage in stages) or len(set(stages)) != len(stages):
        raise ConfigError(
            f"curriculum must name methods ({', '.join(methods)}), each once, for example srl,rlvr; found {text!r}"
        )
    return stages  # type: ignore[return-value]


def stage_words(words: Sequence[str], stage: Method, stages: Sequence[Method], options: Sequence[str]) -> list[str]:
    """Return the command line of one stage, but for its model and output: the common one, then the stage's own options.

    Example: the option "rlvr.max-steps=10" becomes --max-steps 10 in stage rlvr, "sft.no-mask-overlong" a flag.

    Raises:
        ConfigError: an option does not begin with the name of a stage and a dot.
    """
    own: list[str] = []
    for option in options:
        name, dot, setting = option.partition(".")
        if not dot or not setting or name not in stages:
            raise ConfigError(
                f"stage_options must look like rlvr.max-steps=10 and name one of {', '.join(stages)}; found {option!r}"
            )
        if name == stage:
            key, equals, value = setting.partition("=")
            own += [f"--{key.replace('_', '-')}", *([value] if equals else [])]
    return [*words, "--curriculum", "", "--stage-options", "--method", stage, *own]


def run_stages(
    stages: Sequence[Method], model: Path, output: Path, run_stage: Callable[[Method, Path, Path], "TrainResult"]
) -> None:
    """Run each stage, or go on with it; `run_stage` takes method, model to start from and output folder.

    `best` and `last` in the output folder lead to those of the newest stage that has come to its end.

    Raises:
        ConfigError: the folder holds something else, or a curriculum that began otherwise.
    """
    _claim(output, stages)
    for number, stage in enumerate(stages, 1):
        print(f"stage {number} of {len(stages)}: {stage}, from {model}")
        result = run_stage(stage, model, output / stage)
        if result.ending == "terminated":
            return
        model = result.best_model or result.last_model
        for name, folder in (("best", model), ("last", result.last_model)):
            link = output / f".writing-{name}"
            link.unlink(missing_ok=True)
            link.symlink_to(folder.relative_to(output))
            link.replace(output / name)


def _claim(output: Path, stages: Sequence[Method]) -> None:
    path = output / _RECORD
    if path.exists():
        try:
            earlier = json.loads(path.read_text("utf-8"))["stages"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}); choose another output folder") from error
        if list(stages[: len(earlier)]) != earlier:
            raise ConfigError(
                f"{output} holds the curriculum {','.join(earlier)}, not {','.join(stages)}; choose another output "
                "folder, or begin with the same stages: further ones may be added behind them"
            )
    elif output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"output folder {output} is not empty and holds no curriculum; choose another, or empty it")
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"stages": list(stages)}) + "\n")
