"""How much of a training batch is shared prefix: tokens row by row against tokens of the trees that rows make.

A pack computes each shared token once (`srl_swe.training.prefix_tree`); this counts what that saves, before there is a
model. Rollouts are taken to part at their first token and to be as long as the expert's completion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from srl_swe.curation.lengths import Measure, completion_text
from srl_swe.prompts import PromptLimits, render
from srl_swe.types import CompiledTrajectory, HistoryPair


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixSharing:
    """Sizes, in tokens or characters, of the groups of some steps."""

    history: int | None
    """Number of last pairs that a prompt shows; None = all."""
    num_steps: int
    rows: int
    """Every rollout with its whole prompt."""
    group_trees: int
    """The rollouts of a step share their prompt."""
    trajectory_trees: int
    """The steps of a trajectory, all in one batch, also share what their prompts begin with."""

    @property
    def group_ratio(self) -> float:
        """Return how many times fewer tokens the groups' trees have."""
        return self.rows / max(self.group_trees, 1)

    @property
    def trajectory_ratio(self) -> float:
        """Return how many times fewer tokens the trajectories' trees have."""
        return self.rows / max(self.trajectory_trees, 1)


def prefix_sharing(
    trajectories: Sequence[CompiledTrajectory],
    measure: Measure,
    limits: PromptLimits,
    *,
    rollouts_per_prompt: int,
    on_trajectory: Callable[[], None] = lambda: None,
) -> PrefixSharing:
    """Count the tokens of a batch that holds every step example of these trajectories."""
    total = PrefixSharing(history=limits.history, num_steps=0, rows=0, group_trees=0, trajectory_trees=0)
    for compiled in trajectories:
        prompts = _prompt_texts(compiled, measure, limits)
        steps = [compiled.trajectory.steps[index] for index in compiled.targets]
        completions = measure.count([completion_text(step.thought, step.action) for step in steps])
        sampled = rollouts_per_prompt * (sum(completions) + measure.num_end_of_turn * len(steps))
        prompt_sizes, trunk = tree_sizes(prompts, lambda text: measure.count([text])[0])
        total = replace(
            total,
            num_steps=total.num_steps + len(steps),
            rows=total.rows + rollouts_per_prompt * sum(prompt_sizes) + sampled,
            group_trees=total.group_trees + sum(prompt_sizes) + sampled,
            trajectory_trees=total.trajectory_trees + trunk + sampled,
        )
        on_trajectory()
    return total


def tree_sizes(texts: Sequence[str], count: Callable[[str], int]) -> tuple[list[int], int]:
    """Return the size of each text, and that of the tree in which what they begin with alike is counted once.

    Each stretch of text is counted about twice, however many texts begin with it. Counting a text in pieces may differ
    from counting it whole by a token at each seam.

    >>> tree_sizes(["ab", "abc", "abd"], len)
    ([2, 3, 3], 4)
    """
    sizes = [0] * len(texts)
    tree = 0
    previous = ""
    known = [(0, 0)]  # places in `previous`, ascending, with the sizes up to there
    # Descending: a prompt that goes on where another one ends comes after it, for the usual ends of a turn.
    for index in sorted(range(len(texts)), key=texts.__getitem__, reverse=True):
        text = texts[index]
        shared = shared_prefix_length(previous, text)
        while known[-1][0] > shared:
            known.pop()
        place, size = known[-1]
        if place < shared:
            size += count(text[place:shared])
            known.append((shared, size))
        new = count(text[shared:]) if shared < len(text) else 0
        tree += new
        sizes[index] = size + new
        if new:
            known.append((len(text), size + new))
        previous = text
    return sizes, tree


def shared_prefix_length(first: str, second: str) -> int:
    """Return how many leading characters are equal, comparing slices instead of characters.

    As `srl_swe.training.prefix_tree` does for tokens, which needs torch.
    """
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _prompt_texts(compiled: CompiledTrajectory, measure: Measure, limits: PromptLimits) -> list[str]:
    trajectory = compiled.trajectory
    pairs = [HistoryPair(action=step.action, observation=step.observation) for step in trajectory.steps]
    return [
        measure.prompt_text(render(trajectory.problem_statement, pairs[:index], limits)) for index in compiled.targets
    ]
