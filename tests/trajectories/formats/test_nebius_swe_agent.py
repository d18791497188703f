"""Rows of nebius' SWE-agent runs, on rows written for these tests, and on the real ones where they are."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srl_swe.errors import DataError
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.trajectories.formats.nebius_swe_agent import split_text
from srl_swe.types import Trajectory
from tests.trajectories.mutations import mutated, read_or_refuse

ISSUE = "Here's the issue text:\nISSUE:\nIt fails.\n\nINSTRUCTIONS:\nNow solve it.\n"


def prompt(open_file: str = "n/a", working_dir: str = "/n") -> str:
    return f"\n(Open file: {open_file})\n(Current directory: {working_dir})\nbash-$"


def turn(role: str, text: str | None, mask: bool | None = None) -> dict[str, object]:
    return {"role": role, "text": text, "mask": role == "ai" if mask is None else mask, "cutoff_date": None}


def row_of(*turns: dict[str, object], **fields: object) -> dict[str, object]:
    return {
        "instance_id": "o__n-12_7",
        "model_name": "llama",
        "target": True,
        "trajectory": [turn("system", None), turn("user", ISSUE + prompt()), *turns],
        "exit_status": "submitted (exit_context)",
        "generated_patch": "diff",
        "eval_logs": "",
        **fields,
    }


def read(tmp_path: Path, row: object, drops: DropCounter | None = None) -> Trajectory:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (trajectory,) = read_trajectories([path], drops=drops or DropCounter())
    return trajectory


def test_a_row(tmp_path: Path) -> None:
    drops = DropCounter()
    row = row_of(
        turn("ai", "DISCUSSION\nLook.\n```\nopen src/a.py\n```\nThen edit."),
        turn("user", "[File: /n/src/a.py (2 lines total)]\n1:x = 1\n2:y = 2\n" + prompt("/n/src/a.py")),
        turn("ai", "Edit.\n```\nedit 2:2\ny = (\nend_of_edit\n```"),
        turn("user", "Your proposed edit has introduced new syntax error(s). Please read.\n" + prompt("/n/src/a.py")),
        turn("ai", "Again.\n```\nedit 2:2\ny = 3\nend_of_edit\n```"),
        turn("user", "[File: /n/src/a.py (2 lines total)]\n1:x = 1\n2:y = 3\nFile updated.\n" + prompt("/n/src/a.py")),
        turn("ai", "Enter.\n```\ncd src\n```"),
        turn("user", "Your command ran successfully and did not produce any output." + prompt("/n/src/a.py", "/n/src")),
        turn("ai", "Make.\n```\ncreate b.py\n```"),
        turn("user", "[File: /n/src/b.py (1 lines total)]\n1:\n" + prompt("/n/src/b.py", "/n/src")),
        turn("ai", "Exit due to context window"),
    )
    trajectory = read(tmp_path, row, drops)
    assert [(step.thought, step.action, step.exit_code) for step in trajectory.steps] == [
        ("Look.\n\nThen edit.", "edit view /n/src/a.py", 0),
        ("Again.", "edit lines /n/src/a.py 2 2 <<'EOF'\ny = 3\nEOF", 0),
        ("Enter.", "cd src", None),
        ("Make.", "edit create /n/src/b.py <<'EOF'\n\nEOF", 0),
    ]
    assert trajectory.steps[2].observation == ""
    assert (trajectory.instance_id, trajectory.model, trajectory.resolved) == ("o__n-12", "llama", True)
    assert (trajectory.patch, trajectory.exit_status) == ("diff", "submitted (exit_context)")
    assert trajectory.problem_statement == "It fails."
    assert drops.to_dict() == {"nebius_swe_agent": {"refused_call": 1, "scaffold_exit": 1}}


def test_demonstrations_and_masked_turns_are_no_steps(tmp_path: Path) -> None:
    row = row_of(
        turn("ai", "Look.\n```\nls\n```"),
        turn("user", "a" + prompt()),
        turn("ai", "No.\n```\nrm -r .\n```", mask=False),
        turn("user", prompt()),
        turn("ai", "```\nsubmit\n```"),
    )
    shown = [turn("user", "Here is a demonstration.\n" + ISSUE), turn("ai", "```\nrm x\n```"), turn("user", "")]
    row["trajectory"][1:1] = shown  # type: ignore[index]
    drops = DropCounter()
    trajectory = read(tmp_path, row, drops)
    assert [step.action for step in trajectory.steps] == ["ls", "submit"]
    assert drops.to_dict() == {"nebius_swe_agent": {"masked": 2}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n```\nls\n```\nb\n```bash\npwd\n```", ("a\n```\nls\n```\nb", "pwd")),
        ("```\nls\n```", ("", "ls")),
        ("a\r\n```\r\nls\r\n```", ("a", "ls")),
        ("```\nedit 1:1\n```py\nx\n```\nend_of_edit\n```", ("", "edit 1:1\n```py\nx\n```\nend_of_edit")),
        ("no block", ("no block", None)),
        ("a\n```\nls", ("a\n```\nls", None)),
    ],
)
def test_the_last_block_is_the_action(text: str, expected: tuple[str, str | None]) -> None:
    assert split_text(text) == expected


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target": "yes"}, "`target` must be true, false or null, found 'yes'"),
        ({"trajectory": "x"}, "`trajectory` must be a list of messages, found str"),
        ({"trajectory": [{"role": "assistant2"}]}, r"`trajectory`\[0\] must have the `role` system, user or ai"),
        ({"trajectory": [{"role": "ai", "text": 3}]}, r"`trajectory`\[0\]: `text` must be text or null, found int"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, fields: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, row_of(**fields))


def test_every_turn_of_the_real_rows_is_a_step_or_counted(shared_data: Path) -> None:
    path = shared_data / "trajectories" / "nebius_swe_agent.jsonl"
    drops = DropCounter()
    trajectories = list(read_trajectories([path], drops=drops))
    assert [len(trajectory.steps) for trajectory in trajectories] == [31, 6, 13, 14]
    assert drops.to_dict() == {"nebius_swe_agent": {"refused_call": 18}}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum(turn["role"] == "ai" for row in rows for turn in row["trajectory"]) == 31 + 6 + 13 + 14 + 18
    assert [trajectory.resolved for trajectory in trajectories] == [False, True, True, True]
    assert [trajectory.instance_id for trajectory in trajectories][1:] == [
        "tomerfiliba__plumbum-366",
        "ReviewNB__treon-25",
        "tempoCollaboration__OQuPy-74",
    ]
    memset = "/lexicon/lexicon/providers/memset.py"
    actions = [step.action.split(" <<")[0] for step in trajectories[0].steps]
    assert actions[3:8] == [
        "find /lexicon/lexicon -type f -name memset.py",
        "edit view /lexicon/lexicon/lexicon/providers/memset.py",
        f"edit view {memset} 11 110",
        f"edit view {memset} 1 100",
        f"edit lines {memset} 20 24",
    ]
    treon = [step.action.split(" <<")[0] for step in trajectories[2].steps]
    assert treon[2:6] == [
        "grep -n 'def get_notebooks_to_test' /treon/treon/treon.py",
        "edit view /treon/treon/treon.py 44 -1",
        "edit lines /treon/treon/treon.py 122 143",
        "edit lines /treon/treon/treon.py 1 20",
    ]
    for trajectory in trajectories:
        for step in trajectory.steps:
            for scaffold_word in ("bash-$", "(Open file:", "[File:", "```"):
                assert scaffold_word not in step.observation


def test_damaged_rows_are_read_or_refused_clearly(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "trajectories" / "nebius_swe_agent.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["eval_logs"], row["trajectory"] = "", row["trajectory"][:24]

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        read_or_refuse(tmp_path / "x.jsonl", data.draw(st.sampled_from(rows).flatmap(mutated)))

    check()
