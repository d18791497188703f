"""Readers of the published formats, on rows written for these tests, and on the real ones where they are."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from srl_swe.errors import DataError
from srl_swe.trajectories.formats import DropCounter, Reason, read_trajectories
from srl_swe.trajectories.formats.chat import clean_observation
from srl_swe.types import Trajectory

ISSUE = "<pr_description>\nThe sum is wrong.\r\nSee add().\n</pr_description>\n\nMeet the <pr_description>."


def tool_call(call_id: str, name: str, **arguments: object) -> dict[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def message(role: str, content: object, **fields: object) -> dict[str, object]:
    nulls = {"tool_calls": None, "function_call": None, "name": None, "tool_call_id": None}
    return {**nulls, "role": role, "content": content, **fields}


def gym_row(*messages: dict[str, object], **fields: object) -> dict[str, object]:
    return {
        "instance_id": "o__n-12",
        "run_id": "gpt-x_maxiter_30_N_v2-run_1",
        "resolved": True,
        "messages": [message("system", "Help."), message("user", ISSUE), *messages],
        "tools": [],
        "test_result": {"git_patch": "diff --git a/a b/a", "report": None},
        **fields,
    }


def smith_row(*texts: str, **fields: object) -> dict[str, object]:
    messages = [{"role": "system", "content": "Help."}, {"role": "user", "content": ISSUE}]
    messages += [{"role": "user" if i % 2 else "assistant", "content": text} for i, text in enumerate(texts)]
    return {"messages": messages, "instance_id": "o__n.abc.pr_1", **fields}


def mini_document(*messages: dict[str, object], **fields: object) -> dict[str, object]:
    return {
        "info": {"exit_status": "Submitted", "submission": "diff"},
        "messages": [{"role": "system", "content": "Help."}, {"role": "user", "content": ISSUE}, *messages],
        "trajectory_format": "mini-swe-agent-1.1",
        "instance_id": "o__n-12",
        **fields,
    }


def read(tmp_path: Path, rows: Sequence[object], drops: DropCounter | None = None) -> list[Trajectory]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_trajectories([path], drops=drops or DropCounter()))


def test_swe_gym_tool_calls(tmp_path: Path) -> None:
    trailer = "[Python Interpreter: /opt/bin/python]\nroot@openhands-workspace:/workspace/n # \n"
    drops = DropCounter()
    row = gym_row(
        message(
            "assistant",
            " Look first. ",
            tool_calls=[
                tool_call("1", "execute_bash", command="ls"),
                tool_call("2", "str_replace_editor", command="view", path="/workspace/n/no", view_range=None),
            ],
        ),
        message(
            "tool", f"OBSERVATION:\nls\r\na.py\r\nb.py{trailer}[Command finished with exit code 2]", tool_call_id="1"
        ),
        message("tool", "OBSERVATION:\nERROR:\nThe path /workspace/n/no does not exist.", tool_call_id="2"),
        message("assistant", None, tool_calls=[tool_call("3", "execute_bash", command="unanswered")]),
        message("assistant", "It is fixed."),
        message("user", "Please continue."),
        message("assistant", None, tool_calls=[tool_call("4", "finish")]),
    )
    (trajectory,) = read(tmp_path, [row], drops)
    assert [(step.thought, step.action, step.observation, step.exit_code) for step in trajectory.steps] == [
        ("Look first.", "ls", "a.py\nb.py", 2),
        ("", "edit view /workspace/n/no", "The path /workspace/n/no does not exist.", 1),
        ("It is fixed.", "submit", "", None),
    ]
    assert trajectory.problem_statement == "The sum is wrong.\nSee add()."
    assert (trajectory.resolved, trajectory.model, trajectory.patch) == (True, "gpt-x", "diff --git a/a b/a")
    assert drops.to_dict() == {"swe_gym_openhands_sampled": {"missing_observation": 1}}


def test_key_presses_are_left_out_and_process_input_ends_the_trajectory(tmp_path: Path) -> None:
    running = "OBSERVATION:\npartial[Python Interpreter: /p]\nroot@h:/w # \n[Command finished with exit code -1]"
    done = "OBSERVATION:\n[Python Interpreter: /p]\nroot@h:/w # \n[Command finished with exit code 130]"
    messages = []
    for index, (command, answer) in enumerate(
        [("sleep 9", running), ("ctrl+c", done), ("cat", running), ("typed", done), ("ls", done)]
    ):
        messages.append(message("assistant", "", tool_calls=[tool_call(str(index), "execute_bash", command=command)]))
        messages.append(message("tool", answer, tool_call_id=str(index)))
    drops = DropCounter()
    (trajectory,) = read(tmp_path, [gym_row(*messages)], drops)
    assert [(step.action, step.exit_code) for step in trajectory.steps] == [("sleep 9", None), ("cat", None)]
    assert drops.to_dict() == {"swe_gym_openhands_sampled": {"control_key": 1, "process_input": 1}}


def test_calls_that_are_not_understood_are_counted(tmp_path: Path) -> None:
    broken = tool_call("2", "execute_bash")
    broken["function"] = {"name": "execute_bash", "arguments": '{"command": "l'}
    row = gym_row(
        message("assistant", "x", tool_calls=[tool_call("1", "browse", url="x"), broken]),
        message("assistant", "y", tool_calls=[tool_call("3", "finish", message="Done.")]),
    )
    drops = DropCounter()
    (trajectory,) = read(tmp_path, [row], drops)
    assert [(step.thought, step.action) for step in trajectory.steps] == [("y\n\nDone.", "submit")]
    assert drops.to_dict() == {"swe_gym_openhands_sampled": {"malformed_call": 1, "unknown_call": 1}}
    assert "unknown tool 'browse'" in drops.places("swe_gym_openhands_sampled", Reason.UNKNOWN_CALL)[0]


def test_swe_gym_sft_rows_share_an_id_per_instance(tmp_path: Path) -> None:
    issue = f"<uploaded_files>\n/workspace/o__n__1.2\n</uploaded_files>\n{ISSUE}"
    rows = [
        {
            "messages": [
                {"role": "user", "content": issue},
                {
                    "role": "assistant",
                    "content": f"Go.\n<function=execute_bash>\n<parameter=command>{cmd}</parameter>\n</function>",
                },
                {
                    "role": "user",
                    "content": "EXECUTION RESULT of [execute_bash]:\nx\n[Command finished with exit code 0]",
                },
                {"role": "assistant", "content": "<function=finish>\n</function>"},
            ]
        }
        for cmd in ("ls", "pwd")
    ]
    one, two = read(tmp_path, rows)
    assert one.source == "swe_gym_openhands_sft"
    assert one.instance_id == two.instance_id
    assert one.instance_id.startswith("o__n__1.2-")
    assert one.trajectory_id != two.trajectory_id
    assert one.resolved is True
    assert [step.action for step in one.steps] == ["ls", "submit"]
    assert one.steps[0].exit_code == 0


SMITH_XML = (
    "Make it.\n\n<function=str_replace_editor>\n<parameter=command>create</parameter>\n"
    "<parameter=path>/testbed/t.py</parameter>\n<parameter=file_text>\nx = '</parameter>'\n\n</parameter>\n</function>",
    "OBSERVATION:\nFile created successfully at: /testbed/t.py",
    "Run it.\n\n<function=bash>\n<parameter=command>python t.py</parameter>\n</function>",
    "Your command ran successfully and did not produce any output.",
    "<function=submit>\n</function>",
    "OBSERVATION:\nThank you for your work on this issue. Run the submit command again.",
    "Again.\n\n<function=submit>\n</function>",
)


def test_swe_smith_xml(tmp_path: Path) -> None:
    drops = DropCounter()
    (trajectory,) = read(tmp_path, [smith_row(*SMITH_XML)], drops)
    assert [(step.thought, step.action, step.observation, step.exit_code) for step in trajectory.steps] == [
        (
            "Make it.",
            "edit create /testbed/t.py <<'EOF'\nx = '</parameter>'\nEOF",
            "File created successfully at: /testbed/t.py",
            0,
        ),
        ("Run it.", "python t.py", "", None),
        ("Again.", "submit", "", None),
    ]
    assert trajectory.resolved is None
    assert drops.to_dict() == {"swe_smith": {"early_submit": 1}}


def test_the_encodings_of_one_swe_smith_run_are_one_trajectory(tmp_path: Path) -> None:
    xml = smith_row(
        "Look.\n\n<function=str_replace_editor>\n<parameter=command>view</parameter>\n<parameter=path>/testbed/t.py</parameter>\n"
        "<parameter=view_range>[1, 5]</parameter>\n</function>",
        "OBSERVATION:\nHere's the result of running `cat -n` on /testbed/t.py:\r\n     1\tx",
        "<function=submit>\n</function>",
    )
    ticks = smith_row(
        "Look.\n\n```\nstr_replace_editor view /testbed/t.py --view_range 1 5\n```",
        "OBSERVATION:\nHere's the result of running `cat -n` on /testbed/t.py:\r\n     1\tx",
        "\n\n```\nsubmit\n```",
    )
    view = tool_call("1", "str_replace_editor", command="view", path="/testbed/t.py", view_range=[1, 5])
    tool = smith_row()
    tool["messages"] = json.dumps(
        [
            {"role": "system", "content": "Help."},
            {"role": "user", "content": [{"type": "text", "text": ISSUE}]},
            {"role": "assistant", "content": "Look.", "tool_calls": [view]},
            {
                "role": "tool",
                "content": [{"type": "text", "text": "OBSERVATION:\nHere's the result of running x"}],
                "tool_call_ids": ["1"],
            },
            {"role": "assistant", "content": "", "tool_calls": [tool_call("2", "submit")]},
        ]
    )
    for row in (xml, ticks, tool):
        (trajectory,) = read(tmp_path, [row])
        assert [step.action for step in trajectory.steps] == ["edit view /testbed/t.py 1 5", "submit"]
    drops = DropCounter()
    assert len(read(tmp_path, [xml, ticks, tool], drops)) == 1
    assert drops.to_dict() == {"swe_smith": {"duplicate": 2}}


def test_a_fabricated_last_step_is_dropped(tmp_path: Path) -> None:
    fabricated = "Since we have successfully fixed the issue and verified it works, let's submit the changes:\n\n"
    drops = DropCounter()
    row = smith_row(*SMITH_XML[:4], fabricated + "<function=submit>\n</function>")
    (trajectory,) = read(tmp_path, [row], drops)
    assert trajectory.steps[-1].action == "python t.py"
    assert drops.to_dict() == {"swe_smith": {"fabricated_submit": 1}}


def test_mini_swe_agent_text_mode_and_its_report(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "o__n-12"
    folder.mkdir(parents=True)
    (tmp_path / "run" / "report.json").write_text(json.dumps({"resolved_ids": ["o__n-12"], "unresolved_ids": []}))
    (tmp_path / "run" / "README.md").write_text("Runs.")
    long = (
        "<returncode>1</returncode>\n<warning>\nToo long.\n</warning>\n<output_head>\nhead\n</output_head>\n"
        "<elided_chars>\n5 characters elided\n</elided_chars>\n<output_tail>\ntail\n</output_tail>"
    )
    document = mini_document(
        {"role": "assistant", "content": "THOUGHT: Look at\nit.\n\n```bash\nls -a\n```"},
        {"role": "user", "content": "<returncode>0</returncode>\n<output>\na.py\n</output>"},
        {"role": "assistant", "content": "THOUGHT: More.\n\n```mswea_bash_command\ncat a.py\n```"},
        {"role": "user", "content": long},
        {"role": "exit", "content": "diff"},
    )
    (folder / "o__n-12.traj.json").write_text(json.dumps(document, indent=1))
    drops = DropCounter()
    (trajectory,) = read_trajectories([tmp_path / "run"], drops=drops)
    assert [(step.thought, step.action, step.observation, step.exit_code) for step in trajectory.steps] == [
        ("Look at\nit.", "ls -a", "a.py\n", 0),
        ("More.", "cat a.py", "head\n[5 characters elided]\ntail\n", 1),
        ("", "submit", "", None),
    ]
    assert (trajectory.resolved, trajectory.patch) == (True, "diff")
    assert drops.to_dict() == {"mini_swe_agent": {"added_submit": 1}, "unknown": {"passed_over_file": 1}}
    assert drops.total == 0


def test_mini_swe_agent_tool_calls(tmp_path: Path) -> None:
    submit = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat patch.txt"
    document = mini_document(
        {"role": "assistant", "content": None, "tool_calls": [tool_call("1", "bash", command="sleep 99")]},
        {
            "role": "tool",
            "content": "",
            "extra": {"raw_output": "", "returncode": -1, "exception_info": "x timed out after 60 s"},
        },
        {"role": "assistant", "content": "Done.", "extra": {"actions": [{"command": submit}]}},
        {"role": "exit", "content": "diff"},
    )
    path = tmp_path / "x.traj.json"
    path.write_text(json.dumps(document))
    (trajectory,) = read_trajectories([path], drops=DropCounter())
    assert [(step.thought, step.action, step.exit_code) for step in trajectory.steps] == [
        ("", "sleep 99", None),
        ("Done.", "submit", None),
    ]
    assert "time limit" in trajectory.steps[0].observation
    assert trajectory.resolved is None


def test_a_problem_statement_found_by_the_template(tmp_path: Path) -> None:
    document = mini_document(
        {"role": "assistant", "content": "```bash\nls\n```"},
        info={"config": {"agent": {"instance_template": "{% if x %}y{% endif %}Solve: {{task}}\n\nBe quick. {{z}}"}}},
    )
    document["messages"][1] = {"role": "user", "content": "ySolve: It fails.\n\nBe quick. 1"}  # type: ignore[index]
    path = tmp_path / "o__n-3.traj.json"
    path.write_text(json.dumps(document))
    (trajectory,) = read_trajectories([path], drops=DropCounter())
    assert trajectory.problem_statement == "It fails."


def test_copies_of_an_instance_share_its_id(tmp_path: Path) -> None:
    ids = ["o__n-12_0", "o__n-12", "o__n.abc.pr_9848_0", "o__n.abc.lm_rewrite__nxdmidgc_0", "o__n_2-1", "o__n.abc.100"]
    rows = [
        smith_row(*SMITH_XML[:3], f"OBSERVATION:\n{i}", *SMITH_XML[4:5], instance_id=name) for i, name in enumerate(ids)
    ]
    rows[1]["messages"][2]["content"] = rows[1]["messages"][2]["content"].replace("t.py", "u.py")  # type: ignore[index]
    found = [trajectory.instance_id for trajectory in read(tmp_path, rows)]
    assert found == [
        "o__n-12",
        "o__n-12",
        "o__n.abc.pr_9848",
        "o__n.abc.lm_rewrite__nxdmidgc",
        "o__n_2-1",
        "o__n.abc.100",
    ]


def test_text_that_utf8_cannot_hold_is_replaced(tmp_path: Path) -> None:
    row = gym_row(
        message("assistant", "a\ud800", tool_calls=[tool_call("1", "execute_bash", command="echo \udfff\x00")]),
        message("tool", "OBSERVATION:\n\ud83d\x00x", tool_call_id="1"),
        instance_id="o__n-1\udc00",
        run_id="m\ud800_maxiter",
    )
    (trajectory,) = read(tmp_path, [row])
    assert (trajectory.steps[0].thought, trajectory.steps[0].action) == ("a\ufffd", "echo \ufffd")
    assert trajectory.steps[0].observation == "\ufffdx"
    json.dumps([trajectory.instance_id, trajectory.trajectory_id, trajectory.model], ensure_ascii=False).encode()


def test_rows_without_an_id_a_problem_or_steps_are_counted(tmp_path: Path) -> None:
    no_problem = gym_row()
    no_problem["messages"][1]["content"] = "Hello."  # type: ignore[index]
    drops = DropCounter()
    assert not read(tmp_path, [gym_row(instance_id=None), no_problem, gym_row(), gym_row(message("user", "x"))], drops)
    assert drops.to_dict() == {
        "swe_gym_openhands_sampled": {"no_instance_id": 1, "no_problem_statement": 1, "no_steps": 2}
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '{"trajectory": [{"role": "ai"}], "instance_id": "x"}\n',
            r"row 0: not a trajectory in a format .* 'trajectory'",
        ),
        ('{"instance_id": "x", "messages": [{"role"', r"row 0: not valid JSON .* truncated"),
        (json.dumps(gym_row(resolved="yes")) + "\n", r"row 0 \(swe_gym_openhands_sampled\): `resolved` must be"),
        (json.dumps(gym_row(messages=[{"content": "x"}])) + "\n", r"`messages`\[0\] must be an object with a `role`"),
        (json.dumps(gym_row(messages=7)) + "\n", "`messages` must be a list, found int"),
        ("[" * 100_000 + "\n", "not valid JSON"),
        ("7\n", "not a trajectory in a format that is understood; found int"),
        ("", "no trajectory was understood"),
    ],
)
def test_a_named_file_that_is_not_understood_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        list(read_trajectories([path], drops=DropCounter()))
    assert str(path) in str(caught.value)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        list(read_trajectories([tmp_path / "no"], drops=DropCounter()))


def test_a_folder_with_other_things_is_read_and_one_with_nothing_else_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"trajectory": [], "instance_id": "x"}')
    (tmp_path / "b.jsonl").write_text('{"messages": [')
    with pytest.raises(DataError, match="no trajectory was understood in files with"):
        list(read_trajectories([tmp_path], drops=DropCounter()))
    drops = DropCounter()
    assert len(read(tmp_path, [smith_row(*SMITH_XML)])) == 1
    assert len(list(read_trajectories([tmp_path], drops=drops))) == 1
    assert drops.to_dict()["unknown"] == {"bad_json": 1, "unknown_format": 1}


@pytest.mark.parametrize("ending", [".json", ".traj"])
def test_json_lines_lists_and_documents_under_any_name(tmp_path: Path, ending: str) -> None:
    one, two = smith_row(*SMITH_XML), smith_row(*SMITH_XML, instance_id="o__n.abc.pr_2")
    path = tmp_path / f"x{ending}"
    for text, count in (
        (json.dumps(one, indent=1), 1),
        (json.dumps([one, two]), 2),
        (json.dumps(one) + "\n\n" + json.dumps(two), 2),
    ):
        path.write_text(text)
        assert len(list(read_trajectories([path], drops=DropCounter()))) == count


@pytest.mark.parametrize(
    ("text", "command", "expected"),
    [
        ("OBSERVATION:\na\r\nb", "x", ("a\nb", None, False)),
        (
            "/w\n[The command completed with exit code 3.]\n[Current working directory: /w]\n"
            "[Python interpreter: /p]\n[Command finished with exit code 3]",
            "pwd",
            ("/w", 3, False),
        ),
        (
            "for i in 1\r\n> do echo $i\r\n> done\r\n1[Python Interpreter: /p]\nroot@h:/w # \n"
            "[Command finished with exit code 0]",
            "for i in 1\ndo echo $i\ndone",
            ("1", 0, False),
        ),
        ("root@h:/w # ", "x", ("root@h:/w # ", None, False)),
        ("OBSERVATION:\nHere's the result of running `cat -n` on a:\n     1\tx\n", None,
         ("Here's the result of running `cat -n` on a:\n     1\tx", 0, False)),
    ],
)  # fmt: skip
def test_scaffold_words_are_taken_off(text: str, command: str | None, expected: tuple[str, int | None, bool]) -> None:
    assert clean_observation(text, command=command) == expected


def test_every_real_row_compiles_or_is_counted(shared_data: Path) -> None:
    folder = shared_data / "trajectories"
    for name, num_rows in (
        ("swe_gym_openhands_sampled.jsonl", 31),
        ("swe_smith.jsonl", 19),
        ("mini_swe_agent", 42),
        ("expert_pypi", 58),
    ):
        drops = DropCounter()
        trajectories = list(read_trajectories([folder / name], drops=drops))
        assert len(trajectories) + drops.num_rows == num_rows, name
        assert len(trajectories) >= 0.95 * num_rows, name
        assert len({trajectory.trajectory_id for trajectory in trajectories}) == len(trajectories)
        for trajectory in trajectories:
            assert trajectory.problem_statement
            for step in trajectory.steps:
                assert step.action == step.action.strip() != ""
                for scaffold_word in ("<function=", "THOUGHT:", "```mswea"):
                    assert scaffold_word not in step.thought
                assert "[Command finished with exit code" not in step.observation
    experts = list(read_trajectories([folder / "expert_pypi"], drops=DropCounter()))
    assert all(trajectory.resolved and trajectory.steps[-1].action == "submit" for trajectory in experts)
    assert all(step.thought for trajectory in experts for step in trajectory.steps)
    verdicts = Counter(t.resolved for t in read_trajectories([folder / "mini_swe_agent"], drops=DropCounter()))
    assert verdicts == {True: 32, False: 10}


def test_every_real_format_is_understood(shared_data: Path) -> None:
    drops = DropCounter()
    trajectories = list(read_trajectories([shared_data / "trajectories"], drops=drops))
    counts = drops.to_dict()
    assert counts["unknown"] == {"passed_over_file": 5}  # the reports beside the runs
    assert {"swe_agent", "nebius_swe_agent"} <= {trajectory.source for trajectory in trajectories}
    # One of the .traj files is the run of a row of swe_smith.jsonl, and compiles to the same actions.
    assert counts["swe_agent"]["duplicate"] == 1
