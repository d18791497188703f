"""OpenHands' evaluation rows: events of 2025, pairs and flat events of 2024, its tools, and damage."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import compile_call
from srl_swe.trajectories.cells import calls_of_cell
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.types import Trajectory
from tests.trajectories.mutations import mutated, read_or_refuse


def action(event_id: int, kind: str, **args: object) -> dict[str, Any]:
    return {"id": event_id, "source": "agent", "action": kind, "args": args}


def answer(cause: int, kind: str, content: str, **extras: object) -> dict[str, Any]:
    return {
        "id": cause + 1,
        "source": "agent",
        "cause": cause,
        "observation": kind,
        "content": content,
        "extras": extras,
    }


def ran(cause: int, content: str, exit_code: int = 0, working_dir: str = "/w", suffix: str = "") -> dict[str, Any]:
    metadata = {"exit_code": exit_code, "working_dir": working_dir, "prefix": "", "suffix": suffix}
    return answer(cause, "run", content, metadata=metadata)


def row_of(*history: object, **fields: object) -> dict[str, Any]:
    return {
        "instance_id": "o__n-12",
        "instruction": "<issue_description>\nThe sum is wrong.\n</issue_description>",
        "test_result": {"git_patch": "diff --git a/a b/a"},
        "metadata": {"llm_config": {"model": "m-1"}, "eval_output_dir": "out/CodeActAgent/m-1_maxiter_50"},
        "history": list(history),
        "error": None,
        **fields,
    }


def read(tmp_path: Path, rows: Sequence[object], drops: DropCounter | None = None) -> list[Trajectory]:
    path = tmp_path / "output.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_trajectories([path], drops=drops or DropCounter()))


def actions_of(tmp_path: Path, *history: object) -> list[str]:
    return [step.action for step in read(tmp_path, [row_of(*history)])[0].steps]


def test_events_of_2025(tmp_path: Path) -> None:
    drops = DropCounter()
    row = row_of(
        action(0, "system", content="You are OpenHands."),
        {"id": 1, "source": "user", "action": "message", "args": {"content": "Fix it."}},
        action(2, "recall", query="Fix"),
        answer(2, "recall", "Added workspace context"),
        action(4, "run", command="cd /w/src && ls", is_input=False, thought="Look.", blocking=False),
        ran(4, "a.py", working_dir="/w/src", suffix="\n[The command completed with exit code 0.]"),
        action(6, "think", thought="It is add()."),
        answer(6, "think", "Your thought has been logged."),
        action(8, "read", path="/w/src/a.py", start=0, end=-1, impl_source="oh_aci", view_range=[1, 5], thought=""),
        answer(8, "read", "Here's the result of running `cat -n` on /w/src/a.py:\n     1\tx = 1", path="/w/src/a.py"),
        action(
            10, "edit", path="a.py", command="str_replace", old_str="x = 1", new_str="x = 2", file_text=None,
            insert_line=None, content="", start=1, end=-1, impl_source="oh_aci", thought="Fix.",
        ),
        answer(10, "edit", "ERROR:\nNo replacement was performed."),
        action(12, "browse", url="http://x"),
        answer(12, "browse", "page"),
        action(14, "task_tracking", command="plan", task_list=[]),
        answer(14, "task_tracking", "ok"),
        action(16, "message", content="All is done.", wait_for_response=True),
        {"id": 17, "source": "user", "action": "message", "args": {"content": "Please continue."}},
        action(18, "condensation", forgotten_event_ids=[1]),
        action(20, "finish", final_thought="Fixed add().", thought="", outputs={}, task_completed="true"),
    )  # fmt: skip
    (trajectory,) = read(tmp_path, [row], drops)
    assert [(step.thought, step.action, step.observation, step.exit_code) for step in trajectory.steps] == [
        ("Look.", "cd /w/src && ls", "a.py", 0),
        (
            "It is add().",
            "edit view /w/src/a.py 1 5",
            "Here's the result of running `cat -n` on /w/src/a.py:\n     1\tx = 1",
            0,
        ),
        (
            "Fix.",
            "edit replace /w/src/a.py <<'EOF'\nx = 1\n=======\nx = 2\nEOF",
            "No replacement was performed.",
            1,
        ),
        ("All is done.\n\nFixed add().", "submit", "", None),
    ]
    assert trajectory.problem_statement == "The sum is wrong."
    assert (trajectory.model, trajectory.patch, trajectory.resolved) == ("m-1", "diff --git a/a b/a", None)
    assert (trajectory.trajectory_id, trajectory.exit_status) == ("o__n-12:m-1_maxiter_50", "finished")
    assert drops.to_dict() == {"openhands": {"unknown_call": 1}}


def test_answers_are_found_by_their_cause(tmp_path: Path) -> None:
    """Events of one turn may come as action, action, answer, answer."""
    history = [action(1, "run", command="a"), action(3, "run", command="b"), ran(3, "of b"), ran(1, "of a")]
    (trajectory,) = read(tmp_path, [row_of(*history)])
    assert [(step.action, step.observation) for step in trajectory.steps] == [("a", "of a"), ("b", "of b")]


def test_a_running_process(tmp_path: Path) -> None:
    refused = (
        '\n[Your command "ls" is NOT executed. The previous command is still running - You CANNOT send new commands.]'
    )
    waits = "\n[The command has no new output after 10 seconds. You may wait longer.]"
    drops = DropCounter()
    row = row_of(
        action(1, "run", command="make"),
        ran(1, "half", -1, suffix=waits),
        action(3, "run", command="ls"),
        ran(3, "", -1, suffix=refused),
        action(5, "run", command="", is_input=True),
        ran(5, "more", -1, suffix=waits),
        action(7, "run", command="C-c", is_input=True),
        ran(7, "^C", 130, suffix="\n[The command completed with exit code 130. CTRL+C was sent.]"),
        action(9, "run", command="yes", is_input=True),
        ran(9, "ERROR: No previous running command to interact with.", 1),
        action(11, "run", command="pwd"),
        ran(11, "/w"),
        action(13, "run", command="python"),
        ran(13, ">>>", -1, suffix=waits),
        action(15, "run", command="print(1)", is_input=True),
        ran(15, "1", -1, suffix=waits),
        action(17, "run", command="ls"),
        ran(17, "a.py"),
    )
    (trajectory,) = read(tmp_path, [row], drops)
    assert [(step.action, step.observation, step.exit_code) for step in trajectory.steps] == [
        ("make", "half", None),
        ("pwd", "/w", 0),
        ("python", ">>>", None),
    ]
    assert drops.to_dict() == {"openhands": {"control_key": 2, "not_executed": 2, "process_input": 1}}


def test_pairs_and_flat_events_of_2024(tmp_path: Path) -> None:
    prompt = "root@h:/w/n # "
    pairs = row_of(
        [
            {"source": "user", "action": "message", "args": {"content": "Fix it."}},
            {"observation": "null", "content": ""},
        ],
        [
            {"action": "run", "args": {"command": "ls", "thought": "Look."}},
            {"observation": "run", "content": f"ls\r\na.py\r\n{prompt}", "extras": {"command_id": -1, "exit_code": 0}},
        ],
        [
            {"action": "write", "args": {"path": "b.py", "content": "x\n", "start": 0, "end": -1}},
            {"observation": "write", "content": "", "extras": {"path": "b.py"}},
        ],
        [{"action": "finish", "args": {"outputs": {}, "thought": "Done."}}, {"observation": "null", "content": ""}],
    )
    flat = row_of(
        {"content": "Fix it.", "wait_for_response": False, "action": "message"},
        {"command": "ls", "thought": "Look.", "action": "run"},
        {"content": f"a.py\r\n{prompt}", "command_id": -1, "command": "ls", "exit_code": 0, "observation": "run"},
        {"content": "Shall I go on?", "wait_for_response": True, "action": "message"},
        {"path": "/w/n/b.py", "content": "x\n", "start": 0, "end": -1, "action": "write"},
        {"content": "", "path": "/w/n/b.py", "observation": "write"},
        {"outputs": {}, "thought": "Done.", "action": "finish"},
    )
    for row, thought in ((pairs, ""), (flat, "Shall I go on?")):
        (trajectory,) = read(tmp_path, [row])
        assert [(step.thought, step.action, step.observation, step.exit_code) for step in trajectory.steps] == [
            ("Look.", "ls", "a.py", 0),
            (thought, "cat > /w/n/b.py <<'EOF'\nx\nEOF", "", 0),
            ("Done.", "submit", "", None),
        ]


def test_reads_and_writes_of_2024_count_lines_from_0(tmp_path: Path) -> None:
    assert actions_of(
        tmp_path,
        action(1, "read", path="/w/a", start=0, end=-1),
        answer(1, "read", "x"),
        action(3, "read", path="/w/a", start=4, end=9),
        answer(3, "read", "x"),
        action(5, "write", path="/w/a", content="y", start=4, end=9),
        answer(5, "write", ""),
    ) == ["edit view /w/a", "edit view /w/a 5 9", "edit lines /w/a 5 9 <<'EOF'\ny\nEOF"]


def test_a_draft_is_the_change_that_it_came_to(tmp_path: Path) -> None:
    old = "a\nb\nc\nd\n"

    def edited(event_id: int, new: str, before: str | None = old, content: str = "# ... unchanged") -> list[object]:
        return [
            action(event_id, "edit", path="/w/a", content=content, start=1, end=-1, impl_source="llm_based_edit"),
            answer(event_id, "edit", "diff", path="/w/a", old_content=before, new_content=new),
        ]

    history = [
        *edited(1, "a\nB\nC\nd\n"),
        *edited(3, "a\nb\nnew\nc\nd\n"),
        *edited(5, "a\nd\n"),
        *edited(7, "a\n\nc\nd\n"),
        *edited(9, "x", before=""),
        *edited(11, old, content="a\nb\nc\nd"),
    ]
    assert actions_of(tmp_path, *history) == [
        "edit lines /w/a 2 3 <<'EOF'\nB\nC\nEOF",
        "edit insert /w/a 2 <<'EOF'\nnew\nEOF",
        "edit lines /w/a 2 3 <<'EOF'\nEOF",
        "edit lines /w/a 2 2 <<'EOF'\n\nEOF",
        "edit create /w/a -n <<'EOF'\nx\nEOF",
        "cat > /w/a <<'EOF'\na\nb\nc\nd\nEOF",
    ]


def test_the_command_of_a_draft_leaves_what_the_draft_came_to(tmp_path: Path) -> None:
    lines = st.lists(st.sampled_from(["a", "b", "", "EOF", "# ..."]), max_size=5).map("\n".join)
    edit = Path(__file__).parents[3] / "docker" / "edit"
    path = tmp_path / "f.txt"

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(old=lines, new=lines)
    def check(old: str, new: str) -> None:
        extras = {"old_content": old, "new_content": new, "prev_exist": True}
        args = {"path": str(path), "content": "draft", "start": 1, "end": -1, "impl_source": "llm_based_edit"}
        (step,) = read(tmp_path, [row_of(action(1, "edit", **args), answer(1, "edit", "diff", **extras))])[0].steps
        path.write_text(old)
        if old != new:
            subprocess.run(
                ["bash", "-c", f'edit() {{ "{edit}" "$@"; }}\n{step.action}'], check=True, capture_output=True
            )
            found = path.read_text()
            # Whether the last line ends with a line break is left as it is.
            assert found.rstrip("\n") == new.rstrip("\n")
            assert old.endswith("\n") != new.endswith("\n") or found.removesuffix("\n") == new.removesuffix("\n")

    check()


def test_notebook_cells(tmp_path: Path) -> None:
    drops = DropCounter()
    tail = "\n[Jupyter current working directory: /w]\n[Jupyter Python interpreter: /p]"
    window = "[File: /w/a.py (300 lines total)]\n(100 more lines above)\n101|x\n(100 more lines below)"
    row = row_of(
        action(1, "run", command="ls"),
        ran(1, "a.py"),
        action(3, "run_ipython", code="print(1)", thought="Count."),
        answer(3, "run_ipython", f"1{tail}"),
        action(5, "run_ipython", code="scroll_down()"),
        answer(5, "run_ipython", window + tail),
        action(7, "run_ipython", code="print(edit_file_by_replace('a.py', to_replace='x', new_content='y'))"),
        answer(7, "run_ipython", "[File updated]"),
        action(9, "run_ipython", code="df.head()"),
        answer(9, "run_ipython", "x"),
        action(11, "run_ipython", code="scroll_up()"),
        answer(11, "run_ipython", "ERROR: No file open."),
    )
    (trajectory,) = read(tmp_path, [row], drops)
    assert [(step.action, step.observation, step.exit_code) for step in trajectory.steps[1:]] == [
        ("python3 - <<'EOF'\nprint(1)\nEOF", "1", None),
        ("edit view /w/a.py 101 200", window, None),
        ("edit replace /w/a.py <<'EOF'\nx\n=======\ny\nEOF", "[File updated]", None),
    ]
    assert drops.to_dict() == {"openhands": {"unknown_call": 2}}
    assert any("uses names of earlier cells: df" in place for place in drops.places("openhands", "unknown_call"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "action"),
    [
        ("open_file('/w/a.py')", "edit view /w/a.py"),
        ("open_file('/w/a.py', line_number=120)", "edit view /w/a.py 70 -1"),
        ("create_file('/w/a.py')", "edit create /w/a.py <<'EOF'\n\nEOF"),
        ("insert_content_at_line('/w/a.py', 3, 'x\\n')", "edit insert /w/a.py 2 <<'EOF'\nx\nEOF"),
        ("append_file('/w/a.py', content='# ... x')", "cat >> /w/a.py <<'EOF'\n# ... x\nEOF"),
        ("edit_file('/w/a.py', start=2, end=3, content='x')", "edit lines /w/a.py 2 3 <<'EOF'\nx\nEOF"),
        ("search_dir('def f', '/w')", "grep -rnI 'def f' /w"),
        ("search_dir('-a.b')", "grep -rnIF -e -a.b ./"),
        ("search_file('x', '/w/a.py')", "grep -n x /w/a.py"),
        ("find_file('a.py')", "find ./ -type f -name '*a.py*'"),
        (
            "old = 'x'\nnew = '''y'''\nedit_file_by_replace('/a', old, new)",
            "edit replace /a <<'EOF'\nx\n=======\ny\nEOF",
        ),
        ("print(file_editor(**{'command': 'view', 'path': '/w'}))", "edit view /w"),
        ("from agentskills import *\nopen_file('/a')\nopen_file('/b')", "edit view /a\nedit view /b"),
        ("!pip install x\n!ls", "pip install x\nls"),
        ("%pip install x", "pip install x"),
        ("%%bash\nls\npwd", "ls\npwd"),
        ("import os\nos.listdir('.')", "python3 - <<'EOF'\nimport os\nos.listdir('.')\nEOF"),
        ("x = [1]\nx[0]", "python3 - <<'EOF'\nx = [1]\nprint(x[0])\nEOF"),
        ("x = '''\nEOF\n'''", "python3 - <<'EOF_2'\nx = '''\nEOF\n'''\nEOF_2"),
    ],
)
def test_a_cell_is_a_command(code: str, action: str) -> None:
    assert compile_call("execute_ipython_cell", {"code": code}).action == action


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x +", "not Python alone"),
        ("%cd /w\nprint(1)", "not Python alone"),
        ("goto_line(3)", "does not say which lines"),
        ("open_file(path)", "expected constants as arguments"),
        ("open_file(1, 2, 3, 4)", "at most 3 arguments"),
        ("open_file('/a')\nx = f(1)", "mixes editor functions"),
        ("search_dir(3)", "expected two texts"),
        ("open_file()", "`path` must be text"),
        ("(" * 5000, "not Python alone"),
        (None, "`code` must be text"),
    ],
)
def test_a_cell_that_is_no_command(code: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        compile_call("execute_ipython_cell", {"code": code})


@given(code=st.text(st.sampled_from("ab1()[]{}'\"\\=\n !%#.,:*\x00")) | st.text())
def test_any_cell_is_calls_or_a_data_error(code: str) -> None:
    try:
        calls = calls_of_cell(code)
    except DataError:
        return
    assert calls


@pytest.mark.parametrize(
    ("name", "arguments", "action"),
    [
        ("terminal", {"command": "ls", "is_input": "false", "timeout": 30}, "ls"),
        ("file_editor", {"command": "view", "path": "/a", "concise": "True", "security_risk": "LOW"}, "edit view /a"),
        ("edit_file", {"path": "/a", "content": "x"}, "cat > /a <<'EOF'\nx\nEOF"),
        ("edit_file", {"path": "/a", "content": "x\n", "start": -1, "end": -1}, "cat >> /a <<'EOF'\nx\nEOF"),
        (
            "edit_file",
            {"path": "/a", "new_content_draft": "x", "start": 2, "end": 3},
            "edit lines /a 2 3 <<'EOF'\nx\nEOF",
        ),
        ("str_replace_editor", {"command": "view", "path": "src"}, "edit view /w/src"),
        ("str_replace_editor", {"command": "view", "path": "../b"}, "edit view /b"),
    ],
)
def test_tools_of_other_versions(name: str, arguments: dict[str, object], action: str) -> None:
    assert compile_call(name, arguments, working_dir="/w").action == action


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("edit_file", {"path": "/a", "content": "x\n# ... rest of the file"}, "leaves lines out"),
        ("edit_file", {"path": "/a", "content": "def f():\n    # no changes here\n"}, "leaves lines out"),
        ("edit_file", {"path": "/a", "content": "x", "start": "b"}, "expected a path and line numbers"),
        ("edit_file", {"path": "/a"}, "must be text"),
        ("browser", {"code": "goto('x')"}, "no command stands for a browser"),
        ("web_read", {"url": "x"}, "no command stands for a browser"),
    ],
)
def test_tools_that_have_no_command(name: str, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        compile_call(name, arguments)


def test_calls_without_a_step() -> None:
    kinds = [
        compile_call(name, arguments).kind
        for name, arguments in (
            ("execute_bash", {"command": "yes", "is_input": "true"}),
            ("execute_bash", {"command": "C-c", "is_input": True}),
            ("think", {"thought": "Hm."}),
            ("task_tracking", {}),
            ("finish", {"message": "Done."}),
        )
    ]
    assert kinds == ["process_input", "control_key", "thought", "nothing", "submit"]


@pytest.mark.parametrize(
    ("fields", "resolved"),
    [
        ({"report": {"resolved": True}}, True),
        ({"test_result": {"git_patch": "", "report": {"resolved": 0}}}, False),
        ({"test_result": {"result": {"resolved": 1}}}, True),
        ({"success": True}, None),
    ],
)
def test_the_outcome_is_a_report(fields: dict[str, object], resolved: bool | None, tmp_path: Path) -> None:
    row = row_of(action(1, "run", command="ls"), ran(1, ""), **fields)
    assert [trajectory.resolved for trajectory in read(tmp_path, [row])] == [resolved]


def test_a_report_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"resolved_ids": ["o__n-12"]}))
    row = row_of(action(1, "run", command="ls"), ran(1, ""), error="AgentStuckInLoopError: stuck\nTraceback")
    (trajectory,) = read(tmp_path, [row])
    assert (trajectory.resolved, trajectory.exit_status) == (True, "AgentStuckInLoopError: stuck")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"history": 7}, "`history` must be a list of events, found int"),
        ({"history": [{"action": "run"}, 7]}, r"`history`\[1\] must be an event"),
        ({"history": [{"action": "run"}, [{"id": 1}]]}, r"`history`\[1\] must be an event"),
        ({"report": {"resolved": "yes"}}, "`resolved` must be true, false, 0, 1 or null, found 'yes'"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, [row_of(action(1, "run", command="ls"), **fields)])


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    one = action(1, "run", command="ls")
    drops = DropCounter()
    rows = [row_of(one, instruction="Hi."), row_of(one, instance_id=None), row_of()]
    assert not read(tmp_path, rows, drops)
    assert drops.to_dict() == {"openhands": {"no_problem_statement": 1, "no_instance_id": 1, "no_steps": 1}}


def test_the_real_row_of_2025(shared_data: Path) -> None:
    drops = DropCounter()
    path = shared_data / "trajectories" / "openhands_output" / "output_row.trimmed.json"
    (trajectory,) = read_trajectories([path], drops=drops)
    assert [step.action.split("\n")[0] for step in trajectory.steps] == [
        "ls /workspace/ponylang__ponyc__0.1",
        "ls src/lib",
        "edit replace /workspace/ponylang__ponyc__0.1/packages/cli/command_parser.pony <<'EOF'",
        "submit",
    ]
    assert [step.exit_code for step in trajectory.steps] == [0, 2, 1, None]
    assert trajectory.steps[1].observation == "ls: cannot access 'src/lib': No such file or directory"
    assert (trajectory.instance_id, trajectory.model) == ("ponylang__ponyc-4593", "openai/openrouter-llama-4-maverick")
    assert (trajectory.resolved, trajectory.exit_status) == (None, "finished")
    # The answer of the third action was trimmed away.
    assert drops.to_dict() == {"openhands": {"missing_observation": 1}}


def test_the_real_row_of_2024(shared_data: Path) -> None:
    drops = DropCounter()
    path = shared_data / "trajectories" / "openhands_output" / "resolver_old_event_row.json"
    (trajectory,) = read_trajectories([path], drops=drops)
    assert [step.action.split("\n")[0] for step in trajectory.steps] == [
        "touch LICENSE",
        "python3 - <<'EOF'",
        "cat LICENSE",
        "submit",
    ]
    assert [step.exit_code for step in trajectory.steps] == [0, None, 0, None]
    assert trajectory.steps[0].observation == ""
    assert trajectory.steps[1].observation == "MIT License has been added to the LICENSE file."
    assert trajectory.steps[2].observation.endswith("\nSOFTWARE.")
    assert (trajectory.instance_id, trajectory.resolved) == ("neubig__pr-viewer-5", None)
    assert drops.to_dict() == {}


@pytest.mark.parametrize("name", ["output_row.trimmed.json", "resolver_old_event_row.json"])
def test_damaged_real_rows_are_read_or_refused(name: str, shared_data: Path, tmp_path: Path) -> None:
    row = json.loads((shared_data / "trajectories" / "openhands_output" / name).read_text())

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damaged=mutated(row))
    def check(damaged: object) -> None:
        read_or_refuse(tmp_path / "x.jsonl", damaged)

    check()
