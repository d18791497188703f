"""The frozen types that cross borders between packages.

Holds data only. Each type is built in one place and read in others; nothing here imports anything
of the project. Tensors are left out: those live in `srl_swe.training`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Message = dict[str, str]
"""A chat message: {"role": "system" | "user" | "assistant", "content": …}."""

VerdictStatus = Literal["resolved", "unresolved", "invalid"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SdistRecipe:
    """How to build the image of an instance whose repository is a package's source distribution."""

    package: str
    """Name of the package in the index, for example "apispec"."""
    version: str
    sdist_filename: str
    sdist_sha256: str
    requirements: tuple[str, ...]
    """The full pinned closure, the build backend and the test runner included."""
    install_command: str
    """Run in the work tree after the requirements are installed."""
    bug_patch: str
    """Unified diff that turns the pristine tree into the broken one that the agent sees."""
    hidden_paths: tuple[str, ...] = ()
    """Paths deleted from the work tree before it is committed (tests that give the bug away)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DerivedRecipe:
    """How to build the image of an instance from a published image that does not hold the agent's state yet."""

    parent: str
    """Name of the published image; its work tree is a git repository."""
    bug_patch: str = ""
    """Unified diff that breaks the parent's tree; empty = it is as the agent is to see it."""
    hidden_paths: tuple[str, ...] = ()
    """Paths that are deleted, in the work tree or absolute. The tree is one commit then, without history."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceEnvironment:
    """Where an instance lives: its image and how to make a shell at home in it."""

    image: str
    """Name of the image in the engine; it is pulled, or built by `recipe`, where it is missing."""
    workdir: str = "/testbed"
    """The work tree: a git repository whose HEAD is the state the agent starts from."""
    activate: str = ""
    """Shell text run at the start of every shell, for example a conda activation."""
    recipe: SdistRecipe | DerivedRecipe | None = None
    """How to build the image; None means that it can only be pulled."""
    network: tuple[str, ...] = ()
    """Hosts that commands may reach through a proxy, as `environments/egress.py` reads them; () = none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceTests:
    """How a patch is judged."""

    script: str
    """Bash script run in the work tree; prints the SWE-bench start and end markers around the tests."""
    parser: str
    """Name of the log parser in swebench's registry."""
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    timeout_s: float = 1800.0
    eval_type: str = "pass_and_fail"
    """swebench's word for the rule: "pass_and_fail", or "fail_only" for parsers that report only failures. "exact" is
    R2E-Gym's: every outcome is as expected, none more or less."""
    restore_paths: tuple[str, ...] = ()
    """Paths taken from `restore_image` (its work tree, or absolute) over the patched tree before the script runs."""
    restore_image: str | None = None
    expected: tuple[tuple[str, str], ...] = ()
    """(test, outcome) of every test that may run, for the rule "exact", under which nothing else counts."""
    skip_reinstall: bool = False
    """Leave out what the script installs in place where the patch changes nothing that it depends on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """A repository at a base commit, a problem statement and the tests that judge a patch."""

    instance_id: str
    repo: str
    base_commit: str
    """Commit the agent starts from; empty where the image alone defines it (source distributions)."""
    problem_statement: str
    environment: InstanceEnvironment
    tests: InstanceTests
    gold_patch: str
    difficulty: str = ""
    """In the row's words, for example "15 min - 1 hour"; empty where it does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One decision of an agent and what came of it."""

    thought: str
    action: str
    """A shell command string that runs as it stands in the container."""
    observation: str
    exit_code: int | None
    """None = ended by the time limit, or not recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """The ordered steps of one agent on one instance, at text level."""

    trajectory_id: str
    """Unique within a data set; made from source and position where the format has no id of its own."""
    instance_id: str
    problem_statement: str
    steps: tuple[Step, ...]
    patch: str
    source: str
    """The published format it was read from, for example "swe_smith_xml"."""
    model: str
    """Who acted; empty when the format does not say."""
    resolved: bool | None
    """None = the format does not say."""
    exit_status: str = ""
    """How the run ended, in the scaffold's words ("submitted", "exit_cost"…); empty = the file does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledTrajectory:
    """A trajectory as a set of step examples holds it: its steps, and which of them are learned from."""

    trajectory: Trajectory
    targets: tuple[int, ...]
    """Indices of the steps that become step examples, ascending."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryPair:
    """An earlier action and its observation, as a context shows them (thoughts are never carried over)."""

    action: str
    observation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StepExample:
    """One item of SRL: the context up to a step, and the action the expert took there."""

    example_id: str
    instance_id: str
    trajectory_id: str
    step_index: int
    """Index of the target step in its trajectory, from 0."""
    problem_statement: str
    history: tuple[HistoryPair, ...]
    """All earlier pairs, oldest first, observations uncut; the renderer selects and cuts."""
    expert_thought: str
    """Empty where the expert wrote none; such examples cannot serve SFT."""
    expert_action: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A well-formed completion, taken apart."""

    thought: str
    action: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """Token-level record of one sampling. Built only when it is complete and scored."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    """Ends with the end-of-turn token unless `stop_reason` is "length"."""
    sampling_logprobs: tuple[float, ...]
    """One per completion token, under the sampler's distribution at the sampling temperature."""
    text: str
    reward: float
    reward_parts: Mapping[str, float]
    """What the reward is made of, for metrics, for example {"similarity": 0.7, "well_formed": 1.0}."""
    stop_reason: Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The rollouts of one prompt."""

    example_id: str
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandResult:
    """What one command did in a container."""

    output: str
    """Merged stdout and stderr (stdout alone where the streams were asked for apart), invalid UTF-8 replaced, the
    middle left out beyond the limit."""
    exit_code: int | None
    """None = ended by the time limit, or the shell died before it could say."""
    duration_s: float
    timed_out: bool = False
    shell_replaced: bool = False
    """The shell did not survive; a fresh one stands in the same directory."""
    omitted_bytes: int = 0
    errors: str = ""
    """Stderr, where the streams were asked for apart."""
    ended_by: str = ""
    """Why every process was ended from outside during the command or since the one before; "" = they were not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A patch for an instance, with the exact keys that SWE-bench reads."""

    instance_id: str
    model_name_or_path: str
    model_patch: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The judgement of one patch."""

    instance_id: str
    status: VerdictStatus
    reason: str = ""
    """Why it is not resolved: "tests", "empty patch", "patch does not apply", "timeout", "forged", an infrastructure
    failure…"""
    test_status: Mapping[str, str] = field(default_factory=dict)
    """Outcome per test id, in swebench's words."""
    log: str = ""
    duration_s: float = 0.0
    restored: tuple[str, ...] = ()
    """What steers tests and was put back or deleted after the patch, as paths; with a note where it was left."""
    signs: tuple[str, ...] = ()
    """Why the log of a "forged" result is not believed."""
    left_out: tuple[str, ...] = ()
    """Lines of the evaluation script that were not run, as it was asked for: an installation that changes nothing."""
