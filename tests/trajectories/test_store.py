"""The set of step examples on disk."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from srl_swe.errors import DataError
from srl_swe.trajectories.store import SCHEMA_VERSION, read_manifest, read_steps, write_steps
from srl_swe.types import HistoryPair, StepExample


def examples(trajectory_id: str, num_steps: int, *, targets: tuple[int, ...] | None = None) -> list[StepExample]:
    pairs = tuple(HistoryPair(action=f"echo {i}\n😀", observation=f"{i}\r\t\u2028") for i in range(num_steps))
    return [
        StepExample(
            example_id=f"{trajectory_id}#{index}",
            instance_id=trajectory_id.split(":")[0],
            trajectory_id=trajectory_id,
            step_index=index,
            problem_statement="It fails.",
            history=pairs[:index],
            expert_thought=f"thought {index}",
            expert_action=pairs[index].action,
        )
        for index in (range(num_steps) if targets is None else targets)
    ]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    train = examples("a:1", 4) + examples("b:1", 5, targets=(1, 3))
    held_out = examples("c:1", 2) + examples("c:2", 1)
    counts = write_steps(
        train + held_out, tmp_path / "s", header={"sources": ["x"]}, choose_validation=lambda ids: frozenset({"c"})
    )
    assert counts.num_examples == {"train": 6, "validation": 3}
    assert counts.num_trajectories == {"train": 2, "validation": 2}
    assert list(read_steps(tmp_path / "s")) == train
    assert list(read_steps(tmp_path / "s", "validation")) == held_out
    manifest = read_manifest(tmp_path / "s")
    assert manifest["sources"] == ["x"]
    assert manifest["validation_instances"] == ["c"]
    assert next(iter(manifest)) == "schema_version"
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "manifest.json",
        "train.jsonl",
        "validation.jsonl",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_the_same_examples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_steps(examples("a:1", 4), tmp_path / name, header={})
    assert read_manifest(tmp_path / "a")["sha256"] == read_manifest(tmp_path / "b")["sha256"]


def test_the_size_grows_with_the_steps_not_with_their_square(tmp_path: Path) -> None:
    sizes = []
    for num_steps in (50, 100):
        write_steps(examples("a:1", num_steps), tmp_path / "s", header={})
        sizes.append((tmp_path / "s" / "train.jsonl").stat().st_size)
    assert sizes[1] < 2.1 * sizes[0]


def test_the_header_is_asked_after_the_last_example(tmp_path: Path) -> None:
    seen: list[str] = []

    def stream() -> object:
        for example in examples("a:1", 2):
            seen.append(example.example_id)
            yield example

    write_steps(stream(), tmp_path / "s", header=lambda: {"num_seen": len(seen)})  # type: ignore[arg-type]
    assert read_manifest(tmp_path / "s")["num_seen"] == 2


@pytest.mark.parametrize("name", ["manifest.json", "train.jsonl"])
def test_another_schema_version_is_refused(tmp_path: Path, name: str) -> None:
    write_steps(examples("a:1", 2), tmp_path / "s", header={})
    path = tmp_path / "s" / name
    path.write_text(path.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 9', 1))
    with pytest.raises(DataError, match="schema version 9, but this program reads version 1"):
        list(read_steps(tmp_path / "s"))


def test_damage_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no set of step examples here"):
        list(read_steps(tmp_path / "s"))
    write_steps(examples("a:1", 2), tmp_path / "s", header={})
    path = tmp_path / "s" / "train.jsonl"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError, match="the set is damaged"):
        list(read_steps(tmp_path / "s"))
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        list(read_steps(tmp_path / "s"))


def test_a_record_that_lacks_a_field_is_told(tmp_path: Path) -> None:
    write_steps(examples("a:1", 2), tmp_path / "s", header={})
    path, manifest_path = tmp_path / "s" / "train.jsonl", tmp_path / "s" / "manifest.json"
    path.write_text(path.read_text().replace('"targets"', '"tergets"'))
    assert json.loads(manifest_path.read_text())["bytes"]["train"] == path.stat().st_size
    with pytest.raises(DataError, match="line 2: not a trajectory record"):
        list(read_steps(tmp_path / "s"))


def test_nothing_left_and_foreign_folders_change_nothing(tmp_path: Path) -> None:
    write_steps(examples("a:1", 2), tmp_path / "s", header={})
    with pytest.raises(DataError, match="no step example is left"):
        write_steps([], tmp_path / "s", header={})
    assert len(list(read_steps(tmp_path / "s"))) == 2
    (tmp_path / "s" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds other files \(notes.txt\)"):
        write_steps(examples("a:1", 2), tmp_path / "s", header={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_a_writer_that_fails_leaves_the_old_set(tmp_path: Path) -> None:
    write_steps(examples("a:1", 2), tmp_path / "s", header={})

    def failing() -> object:
        yield from examples("b:1", 3)
        raise DataError("row 7 is damaged")

    with pytest.raises(DataError, match="row 7"):
        write_steps(failing(), tmp_path / "s", header={})  # type: ignore[arg-type]
    assert [example.trajectory_id for example in read_steps(tmp_path / "s")] == ["a:1", "a:1"]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_killed_writer_leaves_the_old_set(tmp_path: Path) -> None:
    write_steps(examples("a:1", 2), tmp_path / "s", header={})
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from srl_swe.trajectories.store import read_steps, write_steps
        folder = Path(sys.argv[1])
        rename, calls = Path.rename, []
        def killed(self, target):
            if calls:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(self)
            return rename(self, target)
        Path.rename = killed
        write_steps(list(read_steps(folder))[:1], folder, header={})
        """
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "s")], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "s").exists()  # killed between the two renames, the worst moment
    assert len(list(read_steps(tmp_path / "s"))) == 2
    write_steps(examples("a:1", 3), tmp_path / "s", header={})
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
