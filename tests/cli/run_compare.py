"""`srl-swe compare` in the tiny domain, in a process of its own: `python run_compare.py OPTIONS…`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import srl_swe.software_engineering
from srl_swe.cli.main import main
from srl_swe.trajectories.store import write_steps
from srl_swe.types import CompiledTrajectory, Step, Trajectory
from tests.training.tiny import DOMAIN, LETTERS


def write_letters(folder: Path, *, num_train: int = 20, num_held_out: int = 6, num_thoughtless: int = 0) -> Path:
    """Write a set whose expert repeats the letter that the problem names; the last training steps lack a thought."""

    def compiled(i: int) -> CompiledTrajectory:
        thoughtless = num_train - num_thoughtless <= i < num_train
        letter = LETTERS[i % 26]
        trajectory = Trajectory(
            trajectory_id=f"t{i:02}",
            instance_id=f"i{i:02}",
            problem_statement=f"say {letter}",
            steps=(
                Step(thought="hm", action=letter, observation="ok", exit_code=0),
                Step(thought="" if thoughtless else "hm", action=letter * 2, observation="ok", exit_code=0),
            ),
            patch="",
            source="made here",
            model="",
            resolved=None,
        )
        return CompiledTrajectory(trajectory=trajectory, targets=(1,))

    write_steps(
        map(compiled, range(num_train + num_held_out)),
        folder,
        header={},
        choose_validation=(lambda ids: set(ids[num_train:])) if num_held_out else None,
    )
    return folder


def tiny_words(steps: Path, model: Path, output: Path, *more: str, iterations: int | None = 4) -> list[str]:
    """Return a command line for the tiny model."""
    return [
        *("--data", str(steps), "--model", str(model), "--output", str(output), "--prompts-per-iteration", "4"),
        *(("--num-iterations", str(iterations)) if iterations else ()),
        *("--learning-rate", "1e-2", "--rollouts-per-prompt", "4", "--max-prompt-tokens", "40", "--threads", "1"),
        *("--max-completion-tokens", "12", "--tokens-per-pack", "64", "--cached-tokens", "1000", "--dtype", "float32"),
        *("--device", "cpu", "--checkpoint-every", "2", *more),
    ]


def run_main(arguments: Sequence[str]) -> None:
    """Run the command with the tiny domain in the place of software engineering."""
    srl_swe.software_engineering.software_engineering = lambda limits: DOMAIN
    main(["compare", *arguments])


if __name__ == "__main__":
    run_main(sys.argv[1:])
