"""Stages on disk: done once, resumable, and only under the options they were begun with."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from srl_swe.demo.loop import DemoConfig
from srl_swe.demo.stages import Stages, claim_folder
from srl_swe.errors import ConfigError, DataError


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_a_complete_stage_is_not_done_again(tmp_path: Path) -> None:
    calls: list[str] = []
    Stages(tmp_path, quiet()).run("one", lambda: calls.append("first"))
    again = Stages(tmp_path, quiet())
    again.run("one", lambda: calls.append("second"))
    again.run("two", lambda: calls.append("third"))
    assert calls == ["first", "third"]
    assert list(json.loads((tmp_path / "stages.json").read_text())) == ["one", "two"]


def test_an_interrupted_stage_is_done_again_and_its_seconds_count(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path, quiet()).run("base acts", interrupted)
    (tmp_path / "stage-base-acts.seconds").write_text("7.5\n")
    stages = Stages(tmp_path, quiet())
    assert stages.seconds == {}
    stages.run("base acts", lambda: None)
    assert stages.seconds["base acts"] >= 7.5
    assert not (tmp_path / "stage-base-acts.seconds").exists()


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text('{"one": 1.0, "tw')
    with pytest.raises(DataError, match=r"stages\.json: expected seconds by stage"):
        Stages(tmp_path, quiet())


def test_a_folder_belongs_to_one_set_of_options(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    claim_folder(folder, DemoConfig(output=folder, seed=1))
    claim_folder(folder, DemoConfig(output=folder, seed=1, max_parallel=4))
    with pytest.raises(ConfigError, match="seed: 1 then, 2 now"):
        claim_folder(folder, DemoConfig(output=folder, seed=2))


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"not empty and holds no demo \(notes\.txt"):
        claim_folder(tmp_path, DemoConfig(output=tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_instances": 3}, "num_instances must be at least 4, not 3"),
        ({"num_held_out": 0}, "num_held_out must be 1 to 31"),
        ({"srl_iterations": 0}, "srl_iterations must be at least 1, not 0"),
        ({"max_observation_chars": 20}, "max_observation_chars"),
        ({"sft_learning_rate": 2.0}, "learning_rate"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DemoConfig(**options)  # type: ignore[arg-type]
