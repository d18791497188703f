"""Groups of episodes that go on from one state: another one, the lead, is played up to it; they are compared after it.

The lead is none of the group: where it ends before the fork, the group begins at the start, and an episode that is
there because it ended early would not be drawn as the others are.
Leaves out how an episode is played (`episodes.py`) and what becomes of a group (`outcome.py`).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from srl_swe.training.episode_outcomes import EpisodeJob, EpisodeOutcome, Lead
from srl_swe.training.episodes import play_episodes, play_to_forks


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedGroup:
    """What became of the episodes of one group, in order."""

    outcomes: tuple[EpisodeOutcome, ...]
    lead: Lead | None
    """What they went on from, its snapshot closed; None = nothing was played before."""


def play_groups(
    groups: Sequence[Sequence[EpisodeJob]], *, leads: Sequence[EpisodeJob], on_episode_done: Any, **playing: Any
) -> list[PlayedGroup]:
    """Play groups of episodes, each from the state that its lead has reached; without leads, from the start.

    No snapshot stays. `playing` is what `play_episodes` takes; it raises what that raises.
    """
    with ExitStack() as snapshots:
        played: list[Lead | None] = [*play_to_forks(leads, **playing)] if leads else [None] * len(groups)
        forks = [lead.fork if lead else None for lead in played]
        for fork in forks:
            if fork:
                snapshots.callback(fork.snapshot.close)
        jobs = [replace(job, fork=fork) for some, fork in zip(groups, forks, strict=True) for job in some]
        outcomes = iter(play_episodes(jobs, on_episode_done=on_episode_done, **playing))
        return [
            PlayedGroup(outcomes=tuple(islice(outcomes, len(some))), lead=lead)
            for some, lead in zip(groups, played, strict=True)
        ]
