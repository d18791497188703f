"""Groups of episodes that are compared with each other, shared out among the processes of a run.

They may go on from one state: another episode, the lead, is played up to it; they are compared after it. The lead is
none of the group: where it ends before the fork, the group begins at the start, and an episode that is there because
it ended early would not be drawn as the others are.
Leaves out how an episode is played (`episodes.py`) and what becomes of a group (`outcome.py`).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from srl_swe.training.episode_outcomes import EpisodeJob, EpisodeOutcome, Lead, PlayedLead
from srl_swe.training.episodes import play_episodes, play_to_forks
from srl_swe.training.processes import Processes


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedGroup:
    """What became of the episodes of one group, in order."""

    outcomes: tuple[EpisodeOutcome, ...]
    lead: Lead | None
    """What they went on from; None = nothing was played before."""


def play_groups(
    groups: Sequence[Sequence[EpisodeJob]],
    *,
    leads: Sequence[EpisodeJob],
    processes: Processes,
    on_episode_done: Callable[[], None],
    **playing: Any,
) -> list[PlayedGroup]:
    """Play groups of episodes, each from the state that its lead has reached; without leads, from the start.

    Each process plays some of the episodes, or whole groups where they have leads, as a snapshot stays where it was
    made. No snapshot is left. `playing` is what `play_episodes` takes; it raises what that raises.
    """
    play = partial(play_episodes, on_episode_done=on_episode_done, **playing)
    if leads:

        def group_done(pair: tuple[EpisodeJob, Sequence[EpisodeJob]]) -> None:
            for _ in pair[1]:
                on_episode_done()

        return processes.split(
            list(zip(leads, groups, strict=True)),
            lambda mine: _play_forked(mine, partial(play_to_forks, **playing), play),
            on_done_elsewhere=group_done,
        )
    outcomes = iter(
        processes.split([job for some in groups for job in some], play, on_done_elsewhere=lambda _: on_episode_done())
    )
    return [PlayedGroup(outcomes=tuple(islice(outcomes, len(some))), lead=None) for some in groups]


def _play_forked(
    groups: Sequence[tuple[EpisodeJob, Sequence[EpisodeJob]]],
    play_leads: Callable[[Sequence[EpisodeJob]], list[PlayedLead]],
    play: Callable[[Sequence[EpisodeJob]], list[EpisodeOutcome]],
) -> list[PlayedGroup]:
    with ExitStack() as snapshots:
        played = play_leads([lead for lead, _ in groups])
        for one in played:
            if one.fork:
                snapshots.callback(one.fork.snapshot.close)
        jobs = [replace(job, fork=one.fork) for one, (_, some) in zip(played, groups, strict=True) for job in some]
        outcomes = iter(play(jobs))
        return [
            PlayedGroup(outcomes=tuple(islice(outcomes, len(some))), lead=one.lead)
            for one, (_, some) in zip(played, groups, strict=True)
        ]
