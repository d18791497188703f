"""A compiled set with hostile text, for the tests of exports."""

from pathlib import Path

from srl_swe.prompts import PromptLimits
from srl_swe.trajectories.store import write_steps
from srl_swe.types import CompiledTrajectory, Step, Trajectory

HOSTILE = "cat > a.py <<'EOF'\nprint(\"é 😀 \u2028 \\x00 ```\\n\")\nEOF\necho '</output>' \t$HOME"
PROMPTS = PromptLimits(history=2, max_observation_chars=4000)


def trajectory(name: str, *, thoughts: tuple[str, ...], source: str = "swe_smith") -> CompiledTrajectory:
    steps = tuple(
        Step(thought=thought, action=f"{HOSTILE}\necho {i}", observation=f"{i}\r\u0085<think>", exit_code=0)
        for i, thought in enumerate(thoughts)
    )
    return CompiledTrajectory(
        trajectory=Trajectory(
            trajectory_id=f"{name}:0", instance_id=name, problem_statement="It fails: {{task}} 🙈", steps=steps,
            patch="", source=source, model="m", resolved=True,
        ),
        targets=tuple(range(len(steps))),
    )  # fmt: skip


def write_set(folder: Path) -> Path:
    """Write five examples: one without a thought, one whose thought breaks the format; the last for validation."""
    compiled = [trajectory("a", thoughts=("look", " ", "done</think>", "fix")), trajectory("b", thoughts=("hm",))]
    header = {"trajectories": {"swe_smith": 2}}
    write_steps(compiled, folder, header=header, choose_validation=lambda ids: frozenset({"b"}))
    return folder
