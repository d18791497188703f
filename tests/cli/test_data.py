"""`srl-swe data compile` and `show`, as a user calls them."""

import json
from pathlib import Path

import pytest

from srl_swe.cli import data
from srl_swe.errors import ConfigError, DataError
from srl_swe.trajectories.splits import repo_of
from srl_swe.trajectories.store import read_manifest, read_steps
from tests.trajectories.rows import smith_lines, smith_row


def compile_rows(tmp_path: Path, *options: str, rows: str = "") -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(rows or smith_lines(12))
    assert data.run(["compile", str(path), "--out", str(tmp_path / "steps"), *options]) == 0
    return tmp_path / "steps"


def test_a_set_is_compiled_with_its_data_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = compile_rows(tmp_path, "--validation-instances", "1")
    manifest = read_manifest(steps)
    assert manifest["trajectories"] == {"swe_smith": 12} and manifest["examples"] == {"swe_smith": 36}
    sheet = (steps / "DATASHEET.md").read_text()
    assert "| swe_smith | SWE-bench/SWE-smith-trajectories | MIT | 12 | 36 |" in sheet
    assert f"Content hash: `{manifest['content_hash']}`" in sheet
    assert "- seed of the split: 0" in sheet and "srl_swe 0" in sheet
    assert "of these: validation" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "steps"]


def test_the_papers_rules(tmp_path: Path) -> None:
    rows = [
        smith_row(commands=("ls", "ls", "cat a"), traj_id="solved"),
        smith_row(commands=("pwd",), traj_id="failed", resolved=False),
    ]
    steps = compile_rows(
        tmp_path, "--paper", "--validation-share", "0", rows="".join(json.dumps(row) + "\n" for row in rows)
    )
    assert [(e.trajectory_id, e.expert_action) for e in read_steps(steps)] == [
        ("solved", "ls"),
        ("solved", "ls"),
        ("solved", "cat a"),
    ]
    manifest = read_manifest(steps)
    assert manifest["history"] == 2
    assert manifest["drops"] == {"swe_smith": {"last_step": 1, "not_resolved": 1}}


def test_repositories_are_held_out_whole(tmp_path: Path) -> None:
    steps = compile_rows(tmp_path, "--split-by", "repo", "--validation-instances", "1")
    sides = [{repo_of(example.instance_id) for example in read_steps(steps, part)} for part in ("train", "validation")]
    assert [len(side) for side in sides] == [1, 1] and not sides[0] & sides[1]


def test_what_is_evaluated_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    rows = [
        smith_row("django__django-11001", commands=("ls",), traj_id="bench"),
        smith_row("owner__name-1", commands=("ls",), traj_id="evaluated"),
        smith_row("owner__name-2", commands=("ls",), traj_id="same-repo"),
        smith_row("other__name-3", commands=("ls",), traj_id="free"),
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    instances = tmp_path / "instances.jsonl"
    instances.write_text(json.dumps(_instance("owner__name-1")) + "\n")

    def kept(*options: str) -> list[str]:
        steps = compile_rows(tmp_path, "--validation-share", "0", *options, rows=text)
        return sorted({example.trajectory_id for example in read_steps(steps)})

    assert kept() == ["evaluated", "free", "same-repo"]
    assert kept("--allow-swe-bench-repos") == ["bench", "evaluated", "free", "same-repo"]
    assert kept("--evaluation", str(instances)) == ["free", "same-repo"]
    assert kept("--evaluation", str(instances), "--evaluation-repos") == ["free"]
    drops = read_manifest(tmp_path / "steps")["drops"]
    assert drops == {"swe_smith": {"excluded_instance": 1, "excluded_repo": 2}}


def _instance(instance_id: str) -> dict[str, object]:
    return {
        "instance_id": instance_id,
        "repo": "owner/name",
        "base_commit": "0" * 40,
        "patch": "--- a/x\n+++ b/x\n",
        "test_patch": "",
        "problem_statement": "It is broken.",
        "FAIL_TO_PASS": ["t.py::a"],
        "PASS_TO_PASS": [],
        "image": "registry/x:latest",
        "eval_script": "#!/bin/bash\ncd /testbed\ntrue\n",
        "log_parser": "parse_log_pytest",
        "eval_type": "pass_and_fail",
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--evaluation-repos",), "--evaluation, which is missing"),
        (("--max-steps", "0"), "max_steps is 0"),
        (("--validation-instances", "99"), "num_validation is 99"),
    ],
)
def test_wrong_options(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compile_rows(tmp_path, *options)


def test_no_workers_are_refused_with_the_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compile_rows(tmp_path, "--workers", "0")
    assert "workers is 0; it must be at least 1" in capsys.readouterr().err


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        data.run(["compile", str(tmp_path / "no.jsonl"), "--out", str(tmp_path / "steps")])


def test_when_nothing_is_left_the_reasons_are_shown_and_the_old_set_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = compile_rows(tmp_path)
    before = read_manifest(steps)
    with pytest.raises(DataError, match="no step example is left"):
        compile_rows(tmp_path, "--min-steps", "50")
    assert "too_few_steps" in capsys.readouterr().err
    assert read_manifest(steps) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "steps"]


def test_an_example_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = compile_rows(tmp_path, "--validation-share", "0")
    assert data.run(["show", str(steps), "--index", "1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "It fails." in shown and "cat 0.py" in shown and "copying the last action: 0." in shown
    with pytest.raises(DataError, match="has 36 examples; there is no 99"):
        data.run(["show", str(steps), "--index", "99"])
