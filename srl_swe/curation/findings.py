"""What the figures of a report say, each in a sentence: the titles of its plots."""

from collections.abc import Mapping, Sequence

from srl_swe.curation.action_kinds import ActionKind
from srl_swe.curation.lengths import Distribution
from srl_swe.curation.outcomes import ProfileOutcome, ReplaySummary
from srl_swe.curation.reward_floor import Floor
from srl_swe.curation.shared_prefixes import PrefixSharing
from srl_swe.trajectories.store import Part

NUM_LEADING_KINDS = 3


def percent(part: float, whole: float) -> str:
    """Write a share: 3 of 8 is "38 %", 1 of 1,000 is "0.1 %"; a dash where there is no whole."""
    if not whole:
        return "\N{EN DASH}"
    share = 100 * part / whole
    return f"{share:.1f} %" if 0 < share < 9.95 else f"{share:.0f} %"


def times(ratio: float) -> str:
    """Write a factor, with one decimal below 10."""
    return (f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:,.0f}") + "\N{MULTIPLICATION SIGN}"


def about_steps(step_counts: Mapping[int, int]) -> str:
    """Say how many steps the trajectories have."""
    total, passed = sum(step_counts.values()), 0
    for median in sorted(step_counts):
        passed += step_counts[median]
        if 2 * passed >= total:
            return f"Half of the trajectories have at most {median} steps; the longest has {max(step_counts)}"
    return "There is no trajectory"


def about_kinds(kinds: Mapping[ActionKind, Mapping[Part, int]]) -> str:
    """Say which kinds of action prevail."""
    counts = {kind: sum(parts.values()) for kind, parts in kinds.items()}
    leading = sorted(counts, key=lambda kind: -counts[kind])[:NUM_LEADING_KINDS]
    share = percent(sum(counts[kind] for kind in leading), sum(counts.values()))
    return f"{_listed(leading)} make {share} of the step examples"


def about_lengths(prompt: Distribution, unit: str) -> str:
    """Say how long prompts are."""
    half, most = prompt.quantile(0.5), prompt.quantile(0.95)
    return f"Half of the prompts have at most {half:,} {unit}, one in twenty more than {most:,}"


def about_sharing(sharing: Sequence[PrefixSharing]) -> str:
    """Say what computing shared prefixes once saves."""
    said = " and ".join(f"{times(each.group_ratio)} with {history_words(each.history)}" for each in sharing)
    most = max(sharing, key=lambda each: each.trajectory_ratio)
    whole = f"{times(most.trajectory_ratio)} where a batch holds whole trajectories"
    return f"Computing shared prefixes once saves {said}, up to {whole}"


def about_floor(floors: Sequence[Floor]) -> str:
    """Say what blind guesses score."""
    overall = floors[0]
    if overall.copy_last is None:
        return "No step has an action before it that could be copied"
    hard = min((floor for floor in floors[1:] if floor.copy_last is not None), key=_copied, default=None)
    easy = max((floor for floor in floors[1:] if floor.copy_last is not None), key=_copied, default=None)
    if hard is None or easy is None or hard.kind == easy.kind:
        return f"Copying the last action scores {overall.copy_last:.2f}"
    return (
        f"Copying the last action scores {overall.copy_last:.2f}: from {hard.copy_last:.2f} for {hard.kind} "
        f"to {easy.copy_last:.2f} for {easy.kind}"
    )


def about_replay(replay: ReplaySummary) -> str:
    """Say how much of the set was reproduced."""
    return (
        f"{percent(replay.steps['reproduced'], sum(replay.steps.values()))} of the replayed commands gave what the "
        f"file says; {percent(replay.num_reproduced, replay.num_trajectories)} of the trajectories did throughout"
    )


def about_profile(profile: ProfileOutcome) -> str:
    """Say how much the model can learn from the set."""
    if profile.overall is None:
        return "No step was sampled"
    share = percent(profile.overall.num_with_signal, profile.overall.num_steps)
    return f"The rewards vary on {share} of the sampled steps: only those teach the model something"


def history_words(history: int | None) -> str:
    """Name what a prompt shows of the history."""
    if history is None:
        return "full history"
    return f"the last {history} pairs" if history != 1 else "the last pair"


def _copied(floor: Floor) -> float:
    return floor.copy_last or 0.0


def _listed(kinds: Sequence[ActionKind]) -> str:
    names = [str(kind) for kind in kinds]
    text = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return text[:1].upper() + text[1:]
