"""The set of step examples on disk."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from srl_swe.errors import DataError
from srl_swe.trajectories.steps import step_examples
from srl_swe.trajectories.store import PROFILE, SCHEMA_VERSION, read_compiled, read_manifest, read_steps, write_steps
from srl_swe.types import CompiledTrajectory, Step, Trajectory


def compiled(trajectory_id: str, num_steps: int, *, targets: tuple[int, ...] | None = None) -> CompiledTrajectory:
    steps = tuple(
        Step(thought=f"thought {i}", action=f"echo {i}\n😀", observation=f"{i}\r\t\u2028", exit_code=i % 2 or None)
        for i in range(num_steps)
    )
    trajectory = Trajectory(
        trajectory_id=trajectory_id,
        instance_id=trajectory_id.split(":")[0],
        problem_statement="It fails.",
        steps=steps,
        patch="--- a\n+++ b\n",
        source="src",
        model="m",
        resolved=True,
        exit_status="submitted",
    )
    return CompiledTrajectory(trajectory=trajectory, targets=tuple(range(num_steps)) if targets is None else targets)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    train = [compiled("a:1", 4), compiled("b:1", 5, targets=(1, 3))]
    held_out = [compiled("c:1", 2), compiled("c:2", 1)]
    counts = write_steps(
        train + held_out, tmp_path / "s", header={"sources": ["x"]}, choose_validation=lambda ids: frozenset({"c"})
    )
    assert counts.num_examples == {"train": 6, "validation": 3}
    assert counts.num_trajectories == {"train": 2, "validation": 2}
    assert list(read_compiled(tmp_path / "s")) == train
    assert list(read_compiled(tmp_path / "s", "validation")) == held_out
    assert list(read_steps(tmp_path / "s")) == [example for item in train for example in step_examples(item)]
    manifest = read_manifest(tmp_path / "s")
    assert manifest["sources"] == ["x"]
    assert manifest["validation_instances"] == ["c"]
    assert next(iter(manifest)) == "schema_version"
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "DATASHEET.md",
        "manifest.json",
        "train.jsonl",
        "validation.jsonl",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_the_same_examples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_steps([compiled("a:1", 4)], tmp_path / name, header={})
    assert read_manifest(tmp_path / "a")["sha256"] == read_manifest(tmp_path / "b")["sha256"]


def test_the_size_grows_with_the_steps_not_with_their_square(tmp_path: Path) -> None:
    sizes = []
    for num_steps in (50, 100):
        write_steps([compiled("a:1", num_steps)], tmp_path / "s", header={})
        sizes.append((tmp_path / "s" / "train.jsonl").stat().st_size)
    assert sizes[1] < 2.1 * sizes[0]


def test_the_header_is_asked_after_the_last_trajectory(tmp_path: Path) -> None:
    seen: list[str] = []

    def stream() -> object:
        for item in (compiled("a:1", 2), compiled("a:2", 2)):
            seen.append(item.trajectory.trajectory_id)
            yield item

    write_steps(stream(), tmp_path / "s", header=lambda: {"num_seen": len(seen)})  # type: ignore[arg-type]
    assert read_manifest(tmp_path / "s")["num_seen"] == 2


@pytest.mark.parametrize("name", ["manifest.json", "train.jsonl"])
def test_another_schema_version_is_refused(tmp_path: Path, name: str) -> None:
    write_steps([compiled("a:1", 2)], tmp_path / "s", header={})
    path = tmp_path / "s" / name
    path.write_text(re.sub(rf'("schema_version": ?){SCHEMA_VERSION}', r"\g<1>9", path.read_text(), count=1))
    with pytest.raises(DataError, match="schema version 9, but this program reads version 2"):
        list(read_steps(tmp_path / "s"))


def test_damage_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no set of step examples here"):
        list(read_steps(tmp_path / "s"))
    write_steps([compiled("a:1", 2)], tmp_path / "s", header={})
    path = tmp_path / "s" / "train.jsonl"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError, match="the set is damaged"):
        list(read_steps(tmp_path / "s"))
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        list(read_steps(tmp_path / "s"))


def test_a_record_that_lacks_a_field_is_told(tmp_path: Path) -> None:
    write_steps([compiled("a:1", 2)], tmp_path / "s", header={})
    path, manifest_path = tmp_path / "s" / "train.jsonl", tmp_path / "s" / "manifest.json"
    path.write_text(path.read_text().replace('"targets"', '"tergets"'))
    assert json.loads(manifest_path.read_text())["bytes"]["train"] == path.stat().st_size
    with pytest.raises(DataError, match="line 2: not a trajectory record"):
        list(read_steps(tmp_path / "s"))


def test_nothing_left_and_foreign_folders_change_nothing(tmp_path: Path) -> None:
    write_steps([compiled("a:1", 2)], tmp_path / "s", header={})
    with pytest.raises(DataError, match="no step example is left"):
        write_steps([], tmp_path / "s", header={})
    assert len(list(read_steps(tmp_path / "s"))) == 2
    (tmp_path / "s" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds other files \(notes.txt\)"):
        write_steps([compiled("a:1", 2)], tmp_path / "s", header={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_a_writer_that_fails_leaves_the_old_set(tmp_path: Path) -> None:
    write_steps([compiled("a:1", 2)], tmp_path / "s", header={})

    def failing() -> object:
        yield compiled("b:1", 3)
        raise DataError("row 7 is damaged")

    with pytest.raises(DataError, match="row 7"):
        write_steps(failing(), tmp_path / "s", header={})  # type: ignore[arg-type]
    assert [example.trajectory_id for example in read_steps(tmp_path / "s")] == ["a:1", "a:1"]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_killed_writer_leaves_the_old_set(tmp_path: Path) -> None:
    write_steps([compiled("a:1", 2)], tmp_path / "s", header={})
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from srl_swe.trajectories.store import read_compiled, write_steps
        folder = Path(sys.argv[1])
        rename, calls = Path.rename, []
        def killed(self, target):
            if calls:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(self)
            return rename(self, target)
        Path.rename = killed
        write_steps(list(read_compiled(folder)), folder, header={})
        """
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "s")], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "s").exists()  # killed between the two renames, the worst moment
    assert len(list(read_steps(tmp_path / "s"))) == 2
    write_steps([compiled("a:1", 3)], tmp_path / "s", header={})
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_findings_about_a_set_stay_where_it_is_the_same(tmp_path: Path) -> None:
    write_steps([compiled("a:1", 2)], tmp_path / "s", header={})
    (tmp_path / "s" / PROFILE).write_text("found")
    write_steps([compiled("a:1", 2)], tmp_path / "s", header={"seed": 7})
    assert (tmp_path / "s" / PROFILE).read_text() == "found"
    assert read_manifest(tmp_path / "s")["seed"] == 7
    write_steps([compiled("a:1", 3)], tmp_path / "s", header={})
    assert not (tmp_path / "s" / PROFILE).exists()
