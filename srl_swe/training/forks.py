"""Groups of episodes that go on from one state: the first of a group leads up to it, and all are compared after it.

Leaves out how an episode is played (`episodes.py`) and what becomes of a group (`outcome.py`).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from srl_swe.training.episodes import EpisodeJob, EpisodeOutcome, ForkPoint, play_episodes, play_to_forks


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedGroup:
    """What became of the episodes of one group, in order."""

    outcomes: tuple[EpisodeOutcome, ...]
    fork: ForkPoint | None
    """Where all of them went on from, its snapshot closed; None = the start."""


def play_groups(groups: Sequence[Sequence[EpisodeJob]], *, fork: bool, **playing: Any) -> list[PlayedGroup]:
    """Play groups of episodes, with `fork` from the state that the first of each has reached.

    A lead that ends before is one episode of a group that begins at the start. No snapshot stays. `playing` is what
    `play_episodes` takes; it raises what that raises.
    """
    with ExitStack() as snapshots:
        leads = play_to_forks([jobs[0] for jobs in groups], **playing) if fork else [None] * len(groups)
        for lead in leads:
            if isinstance(lead, ForkPoint):
                snapshots.callback(lead.snapshot.close)
        forks = [lead if isinstance(lead, ForkPoint) else None for lead in leads]
        played: list[list[EpisodeOutcome]] = [
            [] if lead is None or isinstance(lead, ForkPoint) else [lead] for lead in leads
        ]
        left = [
            replace(job, fork=point)
            for jobs, point, ended in zip(groups, forks, played, strict=True)
            for job in jobs[len(ended) :]
        ]
        rest = iter(play_episodes(left, **playing))
        for jobs, ended in zip(groups, played, strict=True):
            ended += islice(rest, len(jobs) - len(ended))
    return [PlayedGroup(outcomes=tuple(outcomes), fork=point) for outcomes, point in zip(played, forks, strict=True)]
