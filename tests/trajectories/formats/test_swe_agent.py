"""SWE-agent's files, on runs written for these tests, and on the real ones where they are."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srl_swe.trajectories.formats import DropCounter, Reason, read_trajectories
from srl_swe.types import Trajectory
from tests.trajectories.mutations import mutated, read_or_refuse

DOCKER = Path(__file__).parents[3] / "docker"
PROMPT = (
    "We're currently solving the following issue within our repository. Here's the issue text:\nISSUE:\n"
    "The sum is wrong.\r\nSee add().\n\nINSTRUCTIONS:\nNow, you're going to solve this issue.\n"
    "(Open file: n/a)\n(Current directory: /repo)\nbash-$"
)
REFUSED = "Your proposed edit has introduced new syntax error(s). Please read this error message carefully."

Step = tuple[str, str]
"""Action and observation."""


def window(path: str, lines: Sequence[str], first: int = 1, size: int = 100) -> str:
    """Print a file as SWE-agent's viewer does."""
    shown = list(enumerate(lines, 1))[first - 1 : first - 1 + size]
    above = [f"({first - 1} more lines above)"] if first > 1 else []
    below = [f"({len(lines) - shown[-1][0]} more lines below)"] if shown and shown[-1][0] < len(lines) else []
    body = [f"{number}:{line}" for number, line in shown]
    return "\n".join([f"[File: {path} ({len(lines)} lines total)]", *above, *body, *below])


def run_of(*steps: Step, working_dir: str = "/repo", **fields: object) -> dict[str, object]:
    """A run of 0.x: the state is text of the place before the action, which the first open file sets."""
    open_file, recorded = "n/a", []
    for action, observation in steps:
        state = json.dumps({"open_file": open_file, "working_dir": working_dir}) + "\n"
        recorded.append(
            {"action": action, "observation": observation, "thought": f"DISCUSSION\nDo {action[:4]}.\n", "state": state}
        )
        if "[File: " in observation:
            open_file = observation.split("[File: ")[1].split(" (")[0]
    history = [{"role": "system", "content": "Help."}, {"role": "user", "content": PROMPT}]
    return {
        "environment": "swe_main",
        "trajectory": recorded,
        "history": history,
        "info": {"exit_status": "submitted", "submission": "\ndiff --git a/a b/a\n"},
        **fields,
    }


def read(tmp_path: Path, document: object, drops: DropCounter | None = None, name: str = "o__n-12.traj") -> Trajectory:
    path = tmp_path / name
    path.write_text(json.dumps(document))
    (trajectory,) = read_trajectories([path], drops=drops or DropCounter())
    return trajectory


def compiled(tmp_path: Path, *steps: Step, **fields: object) -> list[tuple[str, str, int | None]]:
    trajectory = read(tmp_path, run_of(*steps, **fields))
    return [(step.action, step.observation, step.exit_code) for step in trajectory.steps]


def test_a_run_of_0x(tmp_path: Path) -> None:
    before = [f"line {number}" for number in range(1, 201)]
    after = [*before[:49], "fifty", "and more", *before[51:]]
    drops = DropCounter()
    document = run_of(
        ("find_file add.py src\n", 'Found 1 matches for "add.py" in /repo/src:\n/repo/src/add.py\n'),
        ("open src/add.py 50", window("/repo/src/add.py", before, 35)),
        ("scroll_up", window("/repo/src/add.py", before) + "\n\nWARNING: Scrolling many times in a row is very "
         "inefficient.\nIf you know what you are looking for, use `search_file <pattern>` instead.\n\n"),
        ("edit 50:51\nfifty\n and more\nend_of_edit\n", REFUSED + "\n" + window("/repo/src/add.py", after, 46, 12)),
        ("edit 50:51\nfifty\nand more\nend_of_edit\n", window("/repo/src/add.py", after) + "\nFile updated. Please "
         "review the changes."),
        ("cd src && python add.py", "3\n(Open file: /repo/src/add.py)\n(Current directory: /repo/src)\nbash-$"),
        ("submit\n", "\ndiff --git a/a b/a\n"),
    )  # fmt: skip
    trajectory = read(tmp_path, document, drops)
    found = [(step.thought, step.action, step.observation, step.exit_code) for step in trajectory.steps]
    head = "Here's the result of running `cat -n` on /repo/src/add.py:\n"
    shown = [*enumerate(before[45:49], 46), (50, "fifty"), (51, "and more"), *enumerate(before[51:55], 52)]
    assert found == [
        ("Do find.", "find /repo/src -type f -name add.py", "/repo/src/add.py", 0),
        (
            "Do open.",
            "edit view /repo/src/add.py 35 134",
            head + "\n".join(f"{number:6}\tline {number}" for number in range(35, 135)),
            0,
        ),
        (
            "Do scro.",
            "edit view /repo/src/add.py 1 100",
            head + "\n".join(f"{number:6}\tline {number}" for number in range(1, 101)),
            0,
        ),
        (
            "Do edit.",
            "edit lines /repo/src/add.py 50 51 <<'EOF'\nfifty\nand more\nEOF",
            "The file /repo/src/add.py has been edited. Here's the result of running `cat -n` on a snippet of the "
            "edited file:\n" + "\n".join(f"{number:6}\t{line}" for number, line in shown) + "\nReview the changes and "
            "make sure they are as expected (correct indentation, no duplicate lines, etc). Edit the file again if "
            "necessary.",
            0,
        ),
        ("Do cd s.", "cd src && python add.py", "3", None),
        ("Do subm.", "submit", "", None),
    ]
    assert trajectory.problem_statement == "The sum is wrong.\nSee add()."
    assert (trajectory.instance_id, trajectory.patch) == ("o__n-12", "diff --git a/a b/a\n")
    assert (trajectory.exit_status, trajectory.resolved, trajectory.model) == ("submitted", None, "")
    assert drops.to_dict() == {"swe_agent": {"refused_call": 1}}


FILE = [f"line {number}" for number in range(1, 151)]


@pytest.mark.parametrize(
    ("action", "observation", "expected"),
    [
        ("open add.py", window("/repo/add.py", FILE[:9]), "edit view /repo/add.py"),
        ("open add.py 140", window("/repo/add.py", FILE, 51), "edit view /repo/add.py 51 -1"),
        ("open 'a b.py' 3", window("/repo/a b.py", FILE), "edit view '/repo/a b.py' 1 100"),
        ("open no.py", "File no.py not found", "edit view /repo/no.py"),
        ("goto 60", window("/repo/add.py", FILE, 45), "edit view /repo/add.py 45 144"),
        ("create new.py", window("/repo/new.py", [""]), "edit create /repo/new.py <<'EOF'\n\nEOF"),
        ("find_file '*.py'", 'No matches found for "*.py" in /repo', "find /repo -type f -name '*.py'"),
        ('search_dir "def add" src', 'No matches found for "def add" in /repo/src', "grep -rnI 'def add' /repo/src"),
        ("search_dir -x", 'No matches found for "-x" in /repo', "grep -rnI -e -x /repo"),
        ("search_file add a.py", 'No matches found for "add" in /repo/a.py', "grep -n add /repo/a.py"),
        ("filemap src/add.py", "     1 import os", "grep -nE '^ *(class|def|async def) ' /repo/src/add.py"),
        ("edit 9:8\nx\nend_of_edit", window("/repo/add.py", [*FILE[:8], "x", *FILE[8:]]),
         "edit lines /repo/add.py 9 8 <<'EOF'\nx\nEOF"),
        ("edit 1 150\nend_of_edit", window("/repo/add.py", []), "edit lines /repo/add.py 1 150 <<'EOF'\nEOF"),
        ("edit 9:999\nx\nend_of_edit", window("/repo/add.py", [*FILE[:8], "x"]),
         "edit lines /repo/add.py 9 -1 <<'EOF'\nx\nEOF"),
        ("edit 300:301\nx\nend_of_edit", window("/repo/add.py", [*FILE, "x"], 52),
         "edit lines /repo/add.py 151 -1 <<'EOF'\nx\nEOF"),
        ("edit 'line 9' 'line nine'", "Text replaced. Please review.\n" + window("/repo/add.py", FILE),
         "edit replace /repo/add.py <<'EOF'\nline 9\n=======\nline nine\nEOF"),
        ("edit 2:3 'x'", "File updated.\n" + window("/repo/add.py", FILE[1:]),
         "edit lines /repo/add.py 2 3 <<'EOF'\nx\nEOF"),
        ("edit 'x\ny'", "Edit successful.", "edit lines /repo/add.py 1 100 <<'EOF'\nx\ny\nEOF"),
        ("insert 'x\ny'", window("/repo/add.py", [*FILE, "x", "y"], 53),
         "edit insert /repo/add.py 150 <<'EOF'\nx\ny\nEOF"),
        ("insert x 7", window("/repo/add.py", [*FILE[:7], "x", *FILE[7:]]),
         "edit insert /repo/add.py 7 <<'EOF'\nx\nEOF"),
        ("cd src && open add.py", window("/repo/src/add.py", FILE), "cd src && edit view /repo/src/add.py 1 100"),
        ("cd src\nsearch_dir x; pwd", "x", "cd src\ngrep -rnI x /repo/src; pwd"),
        ("cat > x.py <<'E'\nopen(1)\nopen it\nE", "", "cat > x.py <<'E'\nopen(1)\nopen it\nE"),
        ("python -c 'print(1)\nopen x'", "", "python -c 'print(1)\nopen x'"),
        ("str_replace_editor view /repo/a.py --view_range 3 9", "Here's the result of running x",
         "edit view /repo/a.py 3 9"),
    ],
)  # fmt: skip
def test_what_a_command_means(tmp_path: Path, action: str, observation: str, expected: str) -> None:
    opened = ("open add.py", window("/repo/add.py", FILE))
    steps = compiled(tmp_path, opened, (action, observation))
    assert steps[0][0] == "edit view /repo/add.py 1 100"
    assert [step[0] for step in steps[1:]] == [expected]


@pytest.mark.parametrize(
    ("action", "observation", "answer"),
    [
        ('search_file "a(b)"', 'Found 1 matches for "a(b)" in /repo/add.py:\nLine 12:x: a(b)\nEnd of matches for '
         '"a(b)" in /repo/add.py', ("12:x: a(b)", 0)),
        ("search_dir x", 'Found 2 matches for "x" in /repo:\n/repo/a (2 matches)\nEnd of matches for "x" in /repo',
         ('Found 2 matches for "x" in /repo:\n/repo/a (2 matches)\nEnd of matches for "x" in /repo', 0)),
        ("search_dir x no", "Directory no not found", ("Directory no not found", 2)),
        ("search_file x", 'No matches found for "x" in /repo/add.py', ("", 1)),
        ("find_file x no", "Directory no not found", ("Directory no not found", 1)),
        ("create add.py", "Error: File 'add.py' already exists.\n" + window("/repo/add.py", ["x"]),
         ("Error: File 'add.py' already exists.\n" + window("/repo/add.py", ["x"]), 1)),
        ("ls", "Your command ran successfully and did not produce any output.\n(Open file: n/a)\n(Current directory: "
         "/)\nbash-$", ("", None)),
        ("ls", "OBSERVATION:\na\r\nb\r\n", ("a\nb", None)),
    ],
)  # fmt: skip
def test_answers(tmp_path: Path, action: str, observation: str, answer: tuple[str, int | None]) -> None:
    steps = compiled(tmp_path, ("open add.py", window("/repo/add.py", FILE)), (action, observation))
    assert steps[-1][1:] == answer


@pytest.mark.parametrize(
    ("action", "observation", "reason"),
    [
        ("edit 1:1\nx(\nend_of_edit", REFUSED, Reason.REFUSED_CALL),
        ("edit 1:1\nx\nend_of_edit", "No file open. Use the `open` command first.", Reason.REFUSED_CALL),
        ("edit a b", "Your edit was not applied (file not modified): Text 'a' not found", Reason.REFUSED_CALL),
        ("goto 900", "Error: <line> must be less than or equal to 150", Reason.REFUSED_CALL),
        ("open src", "Error: src is a directory. You can only open files.", Reason.REFUSED_CALL),
        ("scroll_down", "No file open. Use the open command first.", Reason.REFUSED_CALL),
        ("edit a b True", "Replaced 3 occurrences. Please review.\n", Reason.UNKNOWN_CALL),
        ("edit 9:2\nx\nend_of_edit", "File updated.", Reason.UNKNOWN_CALL),
        ('search_dir "x', "", Reason.UNKNOWN_CALL),
        ("search_dir x | head", "", Reason.UNKNOWN_CALL),
        ("create a.py && ls", window("/repo/a.py", [""]), Reason.UNKNOWN_CALL),
        ("view_image a.png", "data:", Reason.UNKNOWN_CALL),
        ("click_mouse 1 2", "", Reason.UNKNOWN_CALL),
        ("exit_cost", "Exited", Reason.SCAFFOLD_EXIT),
        ("skip", "Skipped", Reason.SCAFFOLD_EXIT),
        ("", "Exit due to cost limit", Reason.SCAFFOLD_EXIT),
    ],
)  # fmt: skip
def test_what_is_no_action_is_counted(tmp_path: Path, action: str, observation: str, reason: Reason) -> None:
    drops = DropCounter()
    trajectory = read(tmp_path, run_of(("open add.py", window("/repo/add.py", FILE)), (action, observation)), drops)
    assert [step.action for step in trajectory.steps] == ["edit view /repo/add.py 1 100"]
    assert drops.to_dict() == {"swe_agent": {reason.value: 1}}


def test_a_command_before_submit_is_a_step_of_its_own(tmp_path: Path) -> None:
    steps = compiled(tmp_path, ("ls", "a"), ("rm a && submit", "diff"))
    assert steps[1:] == [("rm a", "", None), ("submit", "", None)]


def test_cursors(tmp_path: Path) -> None:
    lines = ["one", "two", "three"]
    shown = "[File: /repo/a (3 lines total)]\n1:one\n<<<<< START CURSOR >>>>>\n2:two\n3:three\n<<<<< END CURSOR >>>>>"
    steps = compiled(
        tmp_path,
        ("open a", window("/repo/a", lines)),
        ("set_cursors 2 3", shown),
        ("edit\n2\nend_of_edit", "[File: /repo/a (2 lines total)]\n1:one\n2:2\nFile updated."),
        ("edit\nII\nIII\nend_of_edit", "[File: /repo/a (3 lines total)]\n1:one\n2:II\n3:III\nFile updated."),
        ("set_cursors 0 0", window("/repo/a", lines)),
        ("edit\n0\nend_of_edit", "[File: /repo/a (4 lines total)]\n1:0\n2:one\n3:II\n4:III\nFile updated."),
    )
    assert [step[0] for step in steps] == [
        "edit view /repo/a",
        "edit view /repo/a",
        "edit lines /repo/a 2 3 <<'EOF'\n2\nEOF",
        "edit lines /repo/a 2 2 <<'EOF'\nII\nIII\nEOF",
        "edit view /repo/a",
        "edit lines /repo/a 1 0 <<'EOF'\n0\nEOF",
    ]


def test_the_window_moves_with_a_rewrite(tmp_path: Path) -> None:
    steps = compiled(
        tmp_path,
        ("open a", window("/repo/a", FILE, 41)),
        ("edit 'x'", "Edit successful."),
        ("edit 'y'", "Edit successful."),
    )
    # 150 lines, 41 to 140 shown; 51 lines are left, and all of them are shown.
    assert [step[0].split(" <<")[0] for step in steps[1:]] == ["edit lines /repo/a 41 140", "edit lines /repo/a 1 51"]


def step_of_1x(action: str, observation: str, state: dict[str, str], thought: str = "") -> dict[str, object]:
    return {"action": action, "observation": observation, "thought": thought, "state": state, "execution_time": 0.1}


def test_a_run_of_1x(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"resolved_ids": ["o__n-7"]}))
    state = {"working_dir": "/testbed", "open_file": "/testbed/a.py"}
    config = {
        "problem_statement": {"text": "It fails.\r\nFix it.", "type": "text", "id": "o__n-7"},
        "agent": {"model": {"name": "claude"}},
    }
    document = {
        "environment": "main",
        "trajectory": [
            step_of_1x('open "a.py"', "[File: a.py (2 lines total)]\r\n1:x = 1\r\n2:", state, "Look."),
            step_of_1x("str_replace_editor str_replace /testbed/a.py  --old_str 'x = '\"'\"'' --new_str ''",
                       "The file /testbed/a.py has been edited. Here's", state),
            step_of_1x("submit", "Thank you for your work on this issue. Please review.", state, "Done."),
            step_of_1x("rm b.py", "", state, "Clean."),
            step_of_1x("submit -f", "diff", state, "Really done."),
            step_of_1x("", "Exited (autosubmitted)", {}, "Exit due to cost limit"),
        ],
        "history": [{"role": "user", "content": "[{'type': 'text', 'text': 'Fix\\nit.'}]", "is_demo": False}],
        "info": {"exit_status": "submitted (exit_cost)", "submission": "\r\ndiff\r\n+x\r\n"},
        "replay_config": json.dumps(config),
    }  # fmt: skip
    drops = DropCounter()
    trajectory = read(tmp_path, document, drops, name="run-1.traj")
    assert [(step.thought, step.action, step.exit_code) for step in trajectory.steps] == [
        ("Look.", "edit view /testbed/a.py", 0),
        ("", "edit replace /testbed/a.py <<'EOF'\nx = '\n=======\nEOF", 0),
        ("Clean.", "rm b.py", None),
        ("Really done.", "submit", None),
    ]
    assert (trajectory.instance_id, trajectory.model, trajectory.resolved) == ("o__n-7", "claude", True)
    assert (trajectory.patch, trajectory.exit_status) == ("diff\n+x\n", "submitted (exit_cost)")
    assert trajectory.problem_statement == "It fails.\nFix it."
    assert drops.to_dict() == {"swe_agent": {"early_submit": 1, "scaffold_exit": 1}}


def test_a_demonstration_has_only_messages(tmp_path: Path) -> None:
    history = [
        {"role": "user", "content": "Here is a demonstration.\nISSUE:\nno\n\nINSTRUCTIONS:\n", "is_demo": True},
        {"role": "assistant", "content": "No.", "action": "rm x", "is_demo": True},
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": "Look.\n```\nopen a\n```", "thought": "Look.", "action": "open a"},
        {"role": "user", "content": window("/r/a", ["x"]) + "\n(Open file: /r/a)\n(Current directory: /r)\nbash-$"},
        {"role": "assistant", "content": "Done.", "action": "submit"},
    ]  # fmt: skip
    trajectory = read(tmp_path, {"history": history}, name="demo.traj")
    assert [(step.thought, step.action) for step in trajectory.steps] == [
        ("Look.", "edit view /r/a"),
        ("Done.", "submit"),
    ]
    assert (trajectory.instance_id, trajectory.problem_statement) == ("demo", "The sum is wrong.\nSee add().")


def run_actions(trajectory: Trajectory, folder: Path) -> list[str]:
    """Run every action in one folder with the real in-container tool, and return what each printed."""
    path = f"{DOCKER}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    printed = []
    for step in trajectory.steps:
        done = subprocess.run(
            ["bash", "-c", step.action],
            cwd=folder,
            env={"PATH": path, "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=20,
            check=False,
        )
        printed.append(done.stdout.decode().rstrip("\n"))
        assert step.exit_code in (None, done.returncode), (step.action, printed[-1])
    return printed


def test_the_actions_do_what_was_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    path = str(folder / "add.py")
    first = ["def add(a, b):", "    return a - b", "", "", *(f"# {n}" for n in range(120)), "print(add(1, 2))"]
    second = [first[0], "    # The sum.", "    return a + b", *first[2:]]
    third = [*second[:4], "EOF", "=======", *second[124:]]
    trajectory = read(
        tmp_path,
        run_of(
            ("create add.py", window(path, [""])),
            ("edit 1:1\n" + "\n".join(first) + "\nend_of_edit", window(path, first, size=200) + "\nFile updated."),
            ("python add.py", "-1"),
            ("goto 120", window(path, first, 26)),
            ("edit 2:2\n    # The sum.\n    return a + b\nend_of_edit", window(path, second) + "\nFile updated."),
            ("edit 4:4\nx(\nend_of_edit", REFUSED),
            ("python add.py", "3"),
            ('search_file "a + b"', f'Found 1 matches for "a + b" in {path}:\nLine 3:    return a + b\nEnd of matches '
             f'for "a + b" in {path}'),
            ("edit 5:124\nEOF\n=======\nend_of_edit", window(path, third) + "\nFile updated."),
            ("open add.py", window(path, third)),
            ("find_file add.py", f'Found 1 matches for "add.py" in {folder}:\n{path}'),
            ("edit 9:99\nend_of_edit", window(path, third) + "\nFile updated."),
            ("edit 7:8\nend_of_edit", window(path, third[:6]) + "\nFile updated."),
            ("open no.py", "File no.py not found"),
            working_dir=str(folder),
        ),
    )  # fmt: skip
    printed = run_actions(trajectory, folder)
    recorded = [step.observation for step in trajectory.steps]
    assert recorded[-1] == "File no.py not found"
    assert printed[:-1] == recorded[:-1]
    assert (folder / "add.py").read_text() == "".join(f"{line}\n" for line in third[:6])


_LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=6), max_size=9)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines=_LINES.filter(bool), added=_LINES, data=st.data())
def test_an_edit_of_lines_leaves_what_swe_agent_left(lines: list[str], added: list[str], data: st.DataObject) -> None:
    # SWE-agent: the lines before START, the new ones, the lines after END, cut at the end of the file.
    start = data.draw(st.integers(1, len(lines) + 3))
    end = data.draw(st.integers(start - 1, len(lines) + 3))
    added = [line for line in added if line != "end_of_edit"]
    after = [*lines[: start - 1], *added, *lines[end:]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        path = folder / "f"
        path.write_text("".join(f"{line}\n" for line in lines))
        edit = "".join(f"{line}\n" for line in [f"edit {start}:{end}", *added])
        document = run_of(
            ("open f", window(str(path), lines)),
            (f"{edit}end_of_edit", window(str(path), after) + "\nFile updated."),
            working_dir=str(folder),
        )
        trajectory = read(folder, document)
        run_actions(trajectory, folder)
        assert len(trajectory.steps) == 2
        assert path.read_text() == "".join(f"{line}\n" for line in after)


REAL_FILES = {
    "demo_history_only": (5, {}),
    "pandas-dev__pandas.95280573.pr_53652": (36, {"early_submit": 1}),
    "pandas-dev__pandas.95280573.pr_53856": (16, {"early_submit": 1}),
    "pydantic__pydantic.acb0f10f.pr_8316": (21, {"early_submit": 1}),
    "v0_default_pydicom-1458": (9, {"refused_call": 3}),
    "v0_default_test-repo": (5, {}),
    "v0_xml_marshmallow-1867": (11, {"refused_call": 1}),
    "v1_function_calling_marshmallow-1867": (13, {}),
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_every_action_of_the_real_files_is_a_step_or_counted(shared_data: Path, name: str) -> None:
    path = shared_data / "trajectories" / "swe_agent" / f"{name}.traj"
    drops = DropCounter()
    (trajectory,) = read_trajectories([path], drops=drops)
    num_steps, counts = REAL_FILES[name]
    assert len(trajectory.steps) == num_steps
    assert drops.to_dict() == ({"swe_agent": counts} if counts else {})
    document = json.loads(path.read_text())
    num_actions = len(document.get("trajectory") or [m for m in document["history"] if m["role"] == "assistant"])
    assert num_steps + sum(counts.values()) == num_actions
    assert trajectory.steps[-1].action == "submit"
    for step in trajectory.steps:
        for scaffold_word in ("bash-$", "(Open file:", "[File:", "OBSERVATION:", "\r\n"):
            assert scaffold_word not in step.observation
    if name != "demo_history_only":
        assert trajectory.exit_status == "submitted"
        assert trajectory.patch.startswith("diff --git")


def test_actions_of_the_real_files_checked_by_hand(shared_data: Path) -> None:
    folder = shared_data / "trajectories" / "swe_agent"
    found = {}
    for name in REAL_FILES:
        (found[name],) = read_trajectories([folder / f"{name}.traj"], drops=DropCounter())
    xml, called = found["v0_xml_marshmallow-1867"], found["v1_function_calling_marshmallow-1867"]
    fields = "src/marshmallow/fields.py"
    assert xml.steps[6].action == f"edit view /marshmallow-code__marshmallow/{fields} 1374 1574"
    assert xml.steps[7].action.startswith(f"edit lines /marshmallow-code__marshmallow/{fields} 1475 1475 <<'EOF'\n")
    assert called.steps[1].action == "edit view /testbed/setup.py"
    assert called.steps[3].action == "edit create /testbed/reproduce.py <<'EOF'\n\nEOF"
    assert called.steps[4].action.startswith("edit insert /testbed/reproduce.py 1 <<'EOF'\n")
    assert called.steps[7].action == "find /testbed/src -type f -name fields.py"
    assert called.steps[8].action == f"edit view /testbed/{fields} 1457 1556"
    assert called.steps[9].action.startswith(f"edit replace /testbed/{fields} <<'EOF'\n")
    assert called.instance_id == "marshmallow-code__marshmallow-1867"
    pydicom = found["v0_default_pydicom-1458"]
    handler = "/pydicom__pydicom/pydicom/pixel_data_handlers/numpy_handler.py"
    assert pydicom.steps[4].action == f"edit view {handler} 273 -1"
    assert pydicom.steps[5].action.startswith(f"edit lines {handler} 287 296 <<'EOF'\n")
    assert found["v0_default_test-repo"].instance_id == "SWE-agent__test-repo-i1"
    assert {t.model for t in found.values()} == {"", "gpt-4o", "claude-3-7-sonnet-20250219"}


def test_damaged_files_are_read_or_refused_clearly(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "trajectories" / "swe_agent"
    documents = [json.loads((folder / f"{name}.traj").read_text()) for name in REAL_FILES if name[0] in "dv"]
    for document in documents:
        document["history"] = document["history"][:8]
        for step in document.get("trajectory", []):
            step.pop("messages", None)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        document = data.draw(st.sampled_from(documents).flatmap(mutated))
        read_or_refuse(tmp_path / "x.jsonl", document)

    check()
