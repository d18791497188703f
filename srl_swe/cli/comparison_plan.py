"""What `srl-swe compare` will do: methods, seeds, the budget of each stage, and the command line of each.

Everything that is wrong with them is said here, before anything is trained. Leaves out training and measuring.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from srl_swe.cli.curriculum import parse_stages, stage_words
from srl_swe.cli.train import TrainCommand, check_command, parse_command, with_recipe
from srl_swe.curation.profile_file import fingerprint_model
from srl_swe.errors import ConfigError
from srl_swe.files import write_atomically
from srl_swe.training.config import MAY_CHANGE_ON_RESUME, Method
from srl_swe.trajectories.store import read_manifest

Budget = Literal["iterations", "tokens"]

_METHODS: tuple[Method, ...] = get_args(Method)
_DECIDED_HERE = {
    "--method": "give --methods",
    "--curriculum": "give --methods, with + between the stages of a chain",
    "--seed": "give --seeds",
    "--epochs": "it differs between methods; the budget is --num-iterations, or --max-trained-tokens",
    "--validation-examples": "every final model is measured on all held-out steps",
    "--validate-every": "held-out steps are measured at the end alone, so that nothing is chosen by them",
    "--patience": "it would end runs before their budget is spent",
}
_NOT_FOR_A_STAGE = frozenset(
    {"model", "init", "output", "data", "instances", "validation_instances", "num_iterations", "max_trained_tokens"}
    | {"max_prompt_tokens", "max_completion_tokens", "history", "max_observation_chars", "dtype"}
    | {"profile", "min_profile_std", "max_profile_mean"}
    | {option.removeprefix("--").replace("-", "_") for option in _DECIDED_HERE}
)
_RECORD = "config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The runs of a comparison."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: Budget
    words: tuple[str, ...]
    """Options for all runs, as `srl-swe train` takes them."""
    stage_options: tuple[str, ...]
    common: TrainCommand
    """The same options, read."""

    @property
    def output(self) -> Path:
        """Return the folder of the comparison."""
        return self.common.train.output

    @property
    def total(self) -> int:
        """Return the budget of one run, in iterations or in trained tokens."""
        train = self.common.train
        total = train.num_iterations if self.budget == "iterations" else train.max_trained_tokens
        assert total is not None
        return total

    @property
    def has_sft(self) -> bool:
        """Return whether step examples must have what SFT needs: a thought, and a target that is short enough."""
        return self._has("sft")

    @property
    def acts_on(self) -> Path | None:
        """Return the file of instances that models are measured on: never those that rlvr trains on."""
        return self.common.validation_instances or (None if self.plays_on else self.common.instances)

    @property
    def plays_on(self) -> Path | None:
        """Return the file of instances that rlvr trains on; None = no method is rlvr."""
        return self.common.instances if self._has("rlvr") else None

    def _has(self, stage: Method) -> bool:
        return any(stage in stages_of(method) for method in self.methods)

    def run_folder(self, method: str, seed: int) -> Path:
        """Return where a run lies; its stages are folders in it."""
        return self.output / method / f"seed-{seed}"

    def stage_command(self, method: str, stage: Method, seed: int, model: Path, output: Path) -> TrainCommand:
        """Return the command of one stage, which has its share of the budget."""
        stages = stages_of(method)
        share = _shares(self.total, len(stages))[stages.index(stage)]
        limit = "--num-iterations" if self.budget == "iterations" else "--max-trained-tokens"
        return parse_command(
            [
                *stage_words(self.words, stage, _METHODS, self.stage_options),
                *("--seed", str(seed), limit, str(share), "--validation-examples", "0"),
                *("--validation-instances", "None", "--model", str(model), "--output", str(output)),
            ],
            prog="srl-swe compare",
        )


def make_plan(
    methods: str, seeds: str, budget: Budget, stage_options: Sequence[str], train_words: Sequence[str]
) -> Plan:
    """Read and check everything.

    Raises:
        ConfigError: an option is wrong, is missing, or is decided by the comparison.
    """
    for word in train_words:
        option = word.partition("=")[0].replace("_", "-")
        if option in _DECIDED_HERE:
            raise ConfigError(f"compare does not take {option}: {_DECIDED_HERE[option]}")
    words = tuple(with_recipe(train_words))
    plan = Plan(
        methods=parse_methods(methods),
        seeds=parse_seeds(seeds),
        budget=budget,
        words=words,
        stage_options=tuple(stage_options),
        common=parse_command(words, prog="srl-swe compare"),
    )
    _check_data(plan)
    _check_budget(plan)
    _check_stage_options(plan)
    for method in plan.methods:
        for stage in stages_of(method):
            check_command(plan.stage_command(method, stage, plan.seeds[0], Path("MODEL"), Path("OUTPUT")))
    return plan


def stages_of(method: str) -> tuple[Method, ...]:
    """Return the stages of a chain such as sft+srl; a single method is a chain of one."""
    return parse_stages(method.replace("+", ","))


def parse_methods(text: str) -> tuple[str, ...]:
    """Read sft,srl,sft+srl.

    Raises:
        ConfigError: a name is no method, comes twice in a chain, or a chain comes twice.
    """
    methods = tuple("+".join(stage.strip() for stage in part.split("+")) for part in text.split(","))
    for method in methods:
        try:
            stages_of(method)
        except ConfigError as error:
            raise ConfigError(
                f"methods must be {', '.join(_METHODS)}, or chains of them such as sft+srl with each once; found "
                f"{method!r} in {text!r}"
            ) from error
    if len(set(methods)) < len(methods):
        raise ConfigError(f"methods must name each method once, found {text!r}")
    return methods


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read a count or a list.

    >>> parse_seeds("3"), parse_seeds("4,7"), parse_seeds("7,")
    ((0, 1, 2), (4, 7), (7,))

    Raises:
        ConfigError: it is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = parts[:-1] if len(parts) > 1 and not parts[-1] else parts
    if all(number.isascii() and number.isdigit() for number in numbers):
        found = tuple(map(int, numbers))
        seeds = found if len(parts) > 1 else tuple(range(found[0]))
        if seeds and len(set(seeds)) == len(seeds):
            return seeds
    raise ConfigError(
        f"seeds must be a count of at least 1 (3 = seeds 0, 1, 2) or a list without repeats (4,7 or 7,); found {text!r}"
    )


def claim_folder(plan: Plan) -> None:
    """Write the options into a new folder, or check that the comparison in it had the same; further methods and seeds
    may be added.

    Raises:
        ConfigError: the folder holds something else, or a comparison with other options, data or another model.
    """
    path = plan.output / _RECORD
    options = json.loads(json.dumps(_options(plan), default=str))
    if not path.is_file():
        others = [entry.name for entry in plan.output.iterdir() if not entry.name.startswith(".")]
        if others:
            raise ConfigError(
                f"{plan.output} is not empty and holds no comparison ({others[0]}…); choose another output folder"
            )
        write_atomically(path, json.dumps(options, indent=1) + "\n")
        return
    try:
        earlier: dict[str, object] = dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); choose another output folder") from error
    names = sorted((options.keys() | earlier.keys()) - MAY_CHANGE_ON_RESUME)
    differing = [name for name in names if options.get(name) != earlier.get(name)]
    if differing:
        found = "; ".join(f"{name}: {earlier.get(name)!r} then, {options.get(name)!r} now" for name in differing)
        raise ConfigError(
            f"{plan.output} holds a comparison that differs ({found}). Choose another output folder, or give the same "
            "options to go on; methods and seeds may be added."
        )


def _options(plan: Plan) -> Mapping[str, object]:
    command = plan.common
    train = {name: value for name, value in asdict(command.train).items() if name not in ("method", "seed", "episodes")}
    return {
        **train,
        **asdict(command.train.episodes),
        **asdict(command.prompts),
        **asdict(command.pivots),
        "profile": command.profile,
        "instances": command.instances,
        "validation_instances": command.validation_instances,
        "trajectories": list(command.trajectories),
        "budget": plan.budget,
        "has_sft": plan.has_sft,
        "acts_on": plan.acts_on,
        "stage_options": list(plan.stage_options),
        "content_hash": read_manifest(Path(command.train.data))["content_hash"],
        "model_fingerprint": fingerprint_model(Path(command.train.model)),
    }


def _check_data(plan: Plan) -> None:
    if not plan.common.train.data:
        raise ConfigError("say what to train and measure on: --data FOLDER, written by `srl-swe data compile`")
    steps = Path(plan.common.train.data)
    counts = read_manifest(steps)["num_examples"]
    if not isinstance(counts, Mapping) or not counts.get("validation"):
        raise ConfigError(
            f"{steps} has no validation part, on which the methods could be compared: compile it with "
            "--validation-share or --validation-instances above 0"
        )


def _check_budget(plan: Plan) -> None:
    train = plan.common.train
    if plan.budget == "iterations":
        if train.num_iterations is None or train.prompts_per_iteration is None:
            raise ConfigError(
                "the same budget for every method must be given, as the paper's recipes differ: --num-iterations N "
                "and --prompts-per-iteration M, or --budget tokens --max-trained-tokens N"
            )
        if train.max_trained_tokens is not None:
            raise ConfigError("max_trained_tokens is the budget of --budget tokens; leave it out, or say that")
    elif train.max_trained_tokens is None:
        raise ConfigError("--budget tokens needs the number of tokens: --max-trained-tokens N")
    elif train.num_iterations is not None:
        raise ConfigError("num_iterations is the budget of --budget iterations; leave it out with --budget tokens")
    longest = max(len(stages_of(method)) for method in plan.methods)
    if plan.total < longest:
        raise ConfigError(f"a budget of {plan.total} {plan.budget} does not reach for a chain of {longest} stages")


def _check_stage_options(plan: Plan) -> None:
    forbidden = _NOT_FOR_A_STAGE | ({"prompts_per_iteration"} if plan.budget == "iterations" else set())
    for option in plan.stage_options:
        name = option.partition(".")[2].partition("=")[0].replace("-", "_")
        if name in forbidden:
            raise ConfigError(f"stage_options may not set {name}, which is the same for every method; found {option!r}")


def _shares(total: int, num_stages: int) -> list[int]:
    """Share a budget equally; what is left over is the last stages'."""
    return [total * (place + 1) // num_stages - total * place // num_stages for place in range(num_stages)]
