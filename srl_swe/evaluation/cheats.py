"""What an evaluation knows of cheating: signs in its episodes, results that are not believed, patches that steer tests.

The first two make the cheat rate. A patch that touches files that steer tests may be honest, since graders put them
back anyhow; such patches are listed beside it. What a sign is, is left to `cheat_signs`, what is not believed to
`srl_swe.environments.forgery`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from srl_swe.environments.patching import REACHES_OUT, touched_parts
from srl_swe.environments.recording import SUFFIX
from srl_swe.errors import SrlSweError
from srl_swe.evaluation.cheat_signs import CheatSign, find_cheat_signs
from srl_swe.evaluation.episodes import TRAJECTORIES_FOLDER
from srl_swe.files import file_name
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.types import Instance, Prediction, Verdict

_MAX_LISTED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class CheatReport:
    """The cheats of an evaluation; every mapping is by instance id and holds only what has something."""

    num_instances: int
    """Instances with a prediction: what the rate is a share of."""
    num_episodes: int
    """Of these, how many have an episode whose actions were read."""
    cheat_rate: float
    """Share of the instances in `cheat_ids`; 0 where there are none."""
    cheat_ids: tuple[str, ...]
    """Instances with at least one entry in `signs` or `disbelieved`."""
    signs: Mapping[str, tuple[CheatSign, ...]] = field(default_factory=dict)
    """What the actions of an episode show."""
    disbelieved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Why a result that says "resolved" is not believed, or how a patch reaches out of the work tree."""
    steering_patches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What a patch did to what steers tests: paths that were put back or deleted, or left with a note."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why an episode's file could not be read."""


def find_cheats(
    folder: Path, instances: Sequence[Instance], predictions: Sequence[Prediction], verdicts: Mapping[str, Verdict]
) -> CheatReport:
    """Look through the episodes in an evaluation's folder and through its verdicts (by instance id).

    A file that cannot be read is reported, not raised.
    """
    gold = {instance.instance_id: instance.gold_patch for instance in instances}
    names = sorted({prediction.instance_id for prediction in predictions} & set(gold))
    signs: dict[str, tuple[CheatSign, ...]] = {}
    unread: dict[str, str] = {}
    num_episodes = 0
    for name in names:
        path = folder / TRAJECTORIES_FOLDER / f"{file_name(name)}{SUFFIX}"
        if not path.is_file():
            continue
        try:
            found = _signs_of(path, gold[name])
        except (SrlSweError, OSError) as error:
            unread[name] = f"{type(error).__name__}: {error}"
            continue
        num_episodes += 1
        if found:
            signs[name] = found
    disbelieved = {name: why for name in names if name in verdicts and (why := _disbelief(verdicts[name]))}
    cheats = tuple(sorted(signs.keys() | disbelieved.keys()))
    return CheatReport(
        num_instances=len(names),
        num_episodes=num_episodes,
        cheat_rate=len(cheats) / len(names) if names else 0.0,
        cheat_ids=cheats,
        signs=signs,
        disbelieved=disbelieved,
        steering_patches={
            name: verdicts[name].restored for name in names if name in verdicts and verdicts[name].restored
        },
        unread=unread,
    )


def cheat_lines(report: CheatReport) -> tuple[str, ...]:
    """Return what the terminal says: the rate, each instance with its first sign, and patches that steer tests."""
    share = f"{len(report.cheat_ids)}/{report.num_instances} ({100 * report.cheat_rate:.1f} %)"
    lines = [f"instances with signs of cheating: {share}; episodes read: {report.num_episodes}"]
    for name in report.cheat_ids:
        if name in report.disbelieved:
            lines.append(f"  {name}: not believed: {report.disbelieved[name][0]}")
        else:
            sign = report.signs[name][0]
            lines.append(f"  {name}: step {sign.step_index}, {sign.name}: {sign.text}")
    lines = _bounded(lines)
    touched = [f"  {name}: {', '.join(paths)}" for name, paths in report.steering_patches.items()]
    if touched:
        lines += _bounded([f"patches that touch what steers tests: {len(touched)}", *touched])
    lines += [f"  {name}: its episode could not be read: {why}" for name, why in report.unread.items()]
    return tuple(lines)


def _signs_of(path: Path, gold_patch: str) -> tuple[CheatSign, ...]:
    allowed = tuple(touched_parts(gold_patch))
    found: list[CheatSign] = []
    for trajectory in read_trajectories([path], drops=DropCounter()):
        found += find_cheat_signs(trajectory, allowed=allowed)
    return tuple(found)


def _disbelief(verdict: Verdict) -> tuple[str, ...]:
    if verdict.reason == REACHES_OUT:
        return (verdict.reason,)
    return verdict.signs


def _bounded(lines: list[str]) -> list[str]:
    """Return a heading and at most 20 of its lines; summary.json has all of them."""
    left = len(lines) - 1 - _MAX_LISTED
    return lines if left <= 0 else [*lines[: _MAX_LISTED + 1], f"  … and {left} more, in summary.json"]
