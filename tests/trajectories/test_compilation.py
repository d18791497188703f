"""Many files at once, resumed after any interruption: the same set as in one go."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from srl_swe.errors import ConfigError, DataError
from srl_swe.files import sole_writer
from srl_swe.trajectories import inputs
from srl_swe.trajectories.compilation import Compiled, compile_files
from srl_swe.trajectories.steps import StepFilter
from tests.trajectories.rows import smith_lines, smith_row

FILTER = StepFilter()


class StopError(Exception):
    """An interruption at a moment that a test chooses."""


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(inputs, "CHUNK_BYTES", 1500)
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.jsonl").write_text(smith_lines(20))
    (folder / "b.jsonl").write_text(smith_lines(20, first=10) + "{broken\n")
    return folder


def outcome(folder: Path, work: Path, *, num_workers: int = 1, stop_after: int | None = None) -> tuple[object, ...]:
    def progress(compiled: Compiled) -> None:
        if compiled.num_chunks == stop_after:
            raise StopError

    with compile_files([folder], work, step_filter=FILTER, num_workers=num_workers, on_progress=progress) as compiled:
        return (
            compiled.records.read_bytes(),
            compiled.index,
            compiled.drops.to_dict(),
            compiled.trajectories,
            compiled.examples,
        )


def test_duplicates_over_files_are_counted_and_the_folder_of_the_work_vanishes(rows: Path, tmp_path: Path) -> None:
    records, index, drops, trajectories, examples = outcome(rows, tmp_path / "w")
    assert trajectories == {"swe_smith": 30} and examples == {"swe_smith": 90}
    assert drops == {"swe_smith": {"duplicate": 10}, "unknown": {"bad_json": 1}}
    assert len(index) == 30  # type: ignore[arg-type]
    assert [json.loads(line)["trajectory_id"] for line in records.splitlines()] == [  # type: ignore[attr-defined]
        f"run-{number}" for number in range(30)
    ]
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("stop_after", [1, 4, 9])
def test_an_interrupted_compilation_goes_on_without_duplicates(rows: Path, tmp_path: Path, stop_after: int) -> None:
    whole = outcome(rows, tmp_path / "whole")
    with pytest.raises(StopError):
        outcome(rows, tmp_path / "w", stop_after=stop_after)
    # A kill can leave a half line behind both files.
    with (tmp_path / "w" / "records.jsonl").open("ab") as stream:
        stream.write(b'{"trajectory_id": "ha')
    with (tmp_path / "w" / "journal.jsonl").open("ab") as stream:
        stream.write(b'{"end": 12, "rows": [["')
    assert outcome(rows, tmp_path / "w") == whole


def test_changed_inputs_or_filters_begin_anew(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        outcome(rows, tmp_path / "w", stop_after=5)
    (rows / "a.jsonl").write_text(smith_lines(3, first=100))
    fresh = outcome(rows, tmp_path / "fresh")
    assert outcome(rows, tmp_path / "w") == fresh


def test_workers_give_the_same_records(rows: Path, tmp_path: Path) -> None:
    assert outcome(rows, tmp_path / "one") == outcome(rows, tmp_path / "two", num_workers=2)


def test_a_killed_compilation_ends_its_workers_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.jsonl").write_text(smith_lines(30, first=30 * number))
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from srl_swe.trajectories.compilation import compile_files
        from srl_swe.trajectories.steps import StepFilter

        def progress(compiled):
            if compiled.num_chunks == 10:
                print(*(line.split()[0] for line in os.popen(f"ps -o pid= --ppid {os.getpid()}")), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            with compile_files([Path(sys.argv[1])], Path(sys.argv[2]), step_filter=StepFilter(), num_workers=2,
                               on_progress=progress):
                pass
        """
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(tmp_path / "w")], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    records, _, drops, trajectories, _ = outcome(folder, tmp_path / "w")
    assert trajectories == {"swe_smith": 1200} and drops == {}
    ids = [json.loads(line)["trajectory_id"] for line in records.splitlines()]  # type: ignore[attr-defined]
    assert ids == [f"run-{number}" for number in range(1200)]
    children = [int(word) for word in done.stdout.split()]
    assert len(children) >= 2
    assert not [child for child in children if _lives(child)]


def _lives(process_id: int) -> bool:
    for _ in range(50):
        try:
            os.kill(process_id, 0)
            state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True


def test_a_row_that_is_not_understood_in_a_named_file_is_an_error_with_workers_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(smith_lines(3) + '{"messages": 7, "instance_id": "x"}\n')
    with (
        pytest.raises(DataError, match=r"a\.jsonl, row 3"),
        compile_files([path], tmp_path / "w", step_filter=FILTER, num_workers=2),
    ):
        pass


def test_two_compilations_of_one_set_do_not_meet(rows: Path, tmp_path: Path) -> None:
    with sole_writer(tmp_path / "w"), pytest.raises(ConfigError, match="another process"):
        outcome(rows, tmp_path / "w")


def test_an_observation_of_five_megabytes_is_cut_and_noted(tmp_path: Path) -> None:
    row = smith_row(commands=("ls",), traj_id="big")
    row["messages"][3]["content"] += "x" * 5_000_000  # type: ignore[index]
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with compile_files([tmp_path / "a.jsonl"], tmp_path / "w", step_filter=FILTER) as compiled:
        (record,) = [json.loads(line) for line in compiled.records.read_text().splitlines()]
    observation = record["steps"][0]["observation"]
    assert len(observation) < 201_000 and "characters left out" in observation
    assert compiled.drops.to_dict()["swe_smith"]["cut_observation"] == 1


def test_a_full_disk_is_told_and_what_is_there_stays(rows: Path, tmp_path: Path) -> None:
    work = tmp_path / "w"
    with pytest.raises(StopError):
        outcome(rows, work, stop_after=2)
    before = (work / "journal.jsonl").read_bytes()
    program = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        from srl_swe.trajectories import inputs
        from srl_swe.trajectories.compilation import compile_files
        from srl_swe.trajectories.steps import StepFilter
        inputs.CHUNK_BYTES = 1500
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        with compile_files([Path(sys.argv[1])], Path(sys.argv[2]), step_filter=StepFilter()):
            pass
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(rows), str(work)], capture_output=True, text=True, check=False
    )
    assert "cannot be written" in done.stderr and "free some space" in done.stderr
    assert (work / "journal.jsonl").read_bytes().startswith(before)
    assert outcome(rows, work) == outcome(rows, tmp_path / "whole")
