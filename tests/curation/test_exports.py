"""Exports of a compiled set: what is in the files, and that the trainers they are for take them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.cli.data.export import ExportConfig, export
from srl_swe.curation.exports.chat import chat_row
from srl_swe.curation.exports.target import Place
from srl_swe.curation.exports.writing import TARGETS, export_steps
from srl_swe.errors import ConfigError, DataError, MissingExtraError
from srl_swe.prompts import PromptLimits, parse, render
from srl_swe.rewards import nemo_gym_reward, trl_reward, verl_score
from srl_swe.trajectories.store import read_manifest, read_steps, write_steps
from srl_swe.types import StepExample
from tests.curation.export_sets import PROMPTS, trajectory, write_set


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    return write_set(tmp_path / "steps")


def json_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def prompt_of(example: StepExample) -> list[dict[str, str]]:
    return render(example.problem_statement, example.history, PROMPTS)


def test_trl_rows(steps: Path, tmp_path: Path) -> None:
    export_steps(steps, tmp_path / "out", "trl", limits=PROMPTS)
    examples = list(read_steps(steps))
    rows = json_rows(tmp_path / "out" / "train.jsonl")
    assert [row["prompt"] for row in rows] == [prompt_of(example) for example in examples]
    assert [row["expert_action"] for row in rows] == [example.expert_action for example in examples]
    assert rows[3] | {"prompt": 0, "expert_action": 0} == {
        "prompt": 0, "expert_action": 0, "example_id": "a:0#3", "instance_id": "a", "trajectory_id": "a:0",
        "step_index": 3,
    }  # fmt: skip
    assert len(json_rows(tmp_path / "out" / "validation.jsonl")) == 1


def test_chat_rows_leave_out_what_the_format_cannot_say(steps: Path, tmp_path: Path) -> None:
    export = export_steps(steps, tmp_path / "out", "chat", limits=PROMPTS)
    assert export.num_rows == {"train": 2, "validation": 1}
    assert export.left_out == {
        "the expert wrote no thought": 1,
        "thought or action holds the marks of the completion format": 1,
    }
    rows = json_rows(tmp_path / "out" / "train.jsonl")
    kept = [example for example in read_steps(steps) if example.step_index in (0, 3)]
    for row, example in zip(rows, kept, strict=True):
        assert set(row) == {"messages"}
        assert row["messages"][:-1] == prompt_of(example)
        assert row["messages"][-1]["role"] == "assistant"
        completion = parse(row["messages"][-1]["content"])
        assert (completion.thought, completion.action) == (example.expert_thought, example.expert_action)
    assert "| left out: the expert wrote no thought | 1 |" in (tmp_path / "out" / "README.md").read_text()


def test_a_set_without_thoughts_gives_no_chat_file(tmp_path: Path) -> None:
    write_steps([trajectory("a", thoughts=("", ""))], tmp_path / "steps", header={})
    with pytest.raises(DataError, match=r"written for chat \(2: the expert wrote no thought\)"):
        export_steps(tmp_path / "steps", tmp_path / "out", "chat", limits=PROMPTS)
    assert not (tmp_path / "out").exists()


def test_verl_rows(steps: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="extra [data] is not installed")
    export_steps(steps, tmp_path / "out", "verl", limits=PROMPTS)
    rows = parquet.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    examples = list(read_steps(steps))
    assert [row["prompt"] for row in rows] == [prompt_of(example) for example in examples]
    assert rows[2] | {"prompt": 0} == {
        "data_source": "srl_swe",
        "prompt": 0,
        "ability": "software_engineering",
        "reward_model": {"style": "rule", "ground_truth": examples[2].expert_action},
        "extra_info": {"split": "train", "index": 2, "example_id": "a:0#2", "instance_id": "a", "step_index": 2},
    }


def test_parquet_is_written_in_row_groups(steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="extra [data] is not installed")
    monkeypatch.setattr("srl_swe.curation.exports.writing._ROW_GROUP_ROWS", 3)
    export_steps(steps, tmp_path / "out", "verl", limits=PROMPTS)
    file = parquet.ParquetFile(tmp_path / "out" / "train.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 1]


def test_parquet_without_pyarrow_names_the_extra(steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"srl-swe\[data\]"):
        export_steps(steps, tmp_path / "out", "verl", limits=PROMPTS)
    assert not (tmp_path / "out").exists()


def test_nemo_gym_rows_and_server(steps: Path, tmp_path: Path) -> None:
    export_steps(steps, tmp_path / "out", "nemo-gym", limits=PROMPTS)
    server = tmp_path / "out" / "resources_servers" / "srl_swe_step"
    rows = json_rows(server / "data" / "train.jsonl")
    example = list(read_steps(steps))[1]
    assert rows[1] == {
        "responses_create_params": {"input": prompt_of(example)},
        "example_id": "a:0#1",
        "instance_id": "a",
        "step_index": 1,
        "expert_action": example.expert_action,
    }
    for name in ("app.py", "task_data.py"):
        compile((server / name).read_text(), name, "exec")
    config = (server / "configs" / "srl_swe_step.yaml").read_text()
    assert "jsonl_fpath: resources_servers/srl_swe_step/data/validation.jsonl\n        license: MIT\n" in config


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_export_tells_how_it_is_used_and_where_it_comes_from(steps: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    export_steps(steps, out, name, limits=PromptLimits(history=None, max_observation_chars=100))
    read_me = (out / "README.md").read_text()
    content_hash = str(read_manifest(steps)["content_hash"])
    assert content_hash in read_me
    assert "SWE-bench/SWE-smith-trajectories: MIT" in read_me
    assert f"--to {name} --history all --max-observation-chars 100" in read_me
    assert (out / "DATASHEET.md").read_text() == (steps / "DATASHEET.md").read_text()
    record = json.loads((out / "export.json").read_text())
    assert record["target"] == name
    assert record["content_hash"] == content_hash
    assert record["options"] == {"history": None, "max_observation_chars": 100}
    # Written again over itself, the result is the same, and nothing is left beside it.
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    export_steps(steps, out, name, limits=PromptLimits(history=None, max_observation_chars=100))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "steps"]


@pytest.mark.parametrize("name", ["train.jsonl", "notes.txt"])
def test_a_folder_of_others_is_never_replaced(steps: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(DataError, match="not an export of srl-swe"):
        export_steps(steps, out, "trl", limits=PROMPTS)
    (out / name).unlink()
    export_steps(steps, out, "trl", limits=PROMPTS)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds other files \(notes.txt\)"):
        export_steps(steps, out, "chat", limits=PROMPTS)
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(DataError, match="not an export of srl-swe"):
        export_steps(steps, steps, "trl", limits=PROMPTS)
    with pytest.raises(DataError, match="a file is in the way"):
        export_steps(steps, out / "notes.txt", "trl", limits=PROMPTS)


def test_an_export_that_fails_leaves_the_old_one(steps: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_steps(steps, out, "trl", limits=PROMPTS)
    before = (out / "train.jsonl").read_bytes()
    path = steps / "validation.jsonl"
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    path.write_bytes(path.read_bytes().replace(b'"targets"', b'"tergets"'))
    with pytest.raises(DataError, match="not a trajectory record"):
        export_steps(steps, out, "chat", limits=PROMPTS)
    assert (out / "train.jsonl").read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "steps"]


def test_the_command_says_what_was_written_and_left_out(
    steps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(ExportConfig(steps=steps, to="chat", out=tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    assert "train: 2 rows\nvalidation: 1 rows\nleft out: 1 (the expert wrote no thought)\n" in printed
    assert f"how it is used: {tmp_path / 'out' / 'README.md'}" in printed


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    assert ExportConfig(steps=tmp_path, to="trl", out=tmp_path, history="all").limits.history is None
    with pytest.raises(ConfigError, match="history"):
        ExportConfig(steps=tmp_path, to="trl", out=tmp_path, history=-1)


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=60)


@given(thought=WORDS, action=WORDS)
def test_any_text_survives_a_chat_row_or_is_left_out(thought: str, action: str) -> None:
    example = StepExample(
        example_id="t#0", instance_id="i", trajectory_id="t", step_index=0, problem_statement="p", history=(),
        expert_thought=thought, expert_action=action,
    )  # fmt: skip
    try:
        row = chat_row(example, prompt_of(example), Place(part="train", index=0))
    except ValueError:
        return
    completion = parse(json.loads(json.dumps(row))["messages"][-1]["content"])
    assert (completion.thought, completion.action) == (thought.strip(), action.strip())


def test_one_completion_has_one_reward_everywhere(steps: Path) -> None:
    """The trainer's own reward, and those under the signatures of the other trainers."""
    pytest.importorskip("torch", reason="extra [train] is not installed")
    from srl_swe.software_engineering import software_engineering
    from srl_swe.training.rollouts import score_completion

    domain = software_engineering(PROMPTS)
    example = dataclasses.replace(next(read_steps(steps)), expert_action="ls -la")
    for text, expected in (
        ("<think>x</think>\n```bash\nls -la\n```", 1.0),
        ("<think>x</think>\n```bash\nls\n```", 0.5),
        ("<think>x</think>\n```bash\nls\n```\nmore", -1.0),
        ("<think> </think>\n```bash\nls\n```", -1.0),
        ("```bash\nls -la\n```", -1.0),
    ):
        response = {"output": [{"type": "message", "role": "assistant", "content": [{"text": text}]}]}
        assert score_completion(text, example, domain)[0] == expected
        assert trl_reward([text], ["ls -la"]) == [expected]
        assert trl_reward([[{"role": "assistant", "content": text}]], ["ls -la"]) == [expected]
        assert verl_score("srl_swe", text, "ls -la", {}) == expected
        assert nemo_gym_reward(response, "ls -la") == expected
