"""`srl-swe train` with --method rlvr and --curriculum, as a user calls it: in real containers, with a tiny model."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from srl_swe.cli.curriculum import parse_stages, stage_words
from srl_swe.cli.outcome_rl import chosen_limits
from srl_swe.cli.train import run
from srl_swe.environments.engine import Engine
from srl_swe.errors import ConfigError
from srl_swe.prompts import PromptLimits
from srl_swe.trajectories.store import write_steps
from srl_swe.types import CompiledTrajectory, Step, Trajectory

from .episode_world import INSTANCE, letter_instances
from .test_resume import read_metrics
from .tiny import make_model, make_tokenizer

pytestmark = pytest.mark.docker


def write_instances(path: Path, letters: str) -> Path:
    rows = [
        {
            "instance_id": instance.instance_id,
            "repo": instance.repo,
            "base_commit": "0",
            "problem_statement": instance.problem_statement,
            "patch": "none",
            "image": instance.environment.image,
            "eval_script": instance.tests.script,
            "log_parser": instance.tests.parser,
            "FAIL_TO_PASS": list(instance.tests.fail_to_pass),
            "PASS_TO_PASS": list(instance.tests.pass_to_pass),
        }
        for instance in letter_instances(letters)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of a curriculum whose prompts fit the model and whose answers are never right."""
    folder = tmp_path_factory.mktemp("curriculum")
    model = make_model()
    model.config.max_position_embeddings = 4096  # type: ignore[union-attr,assignment]
    model.save_pretrained(folder / "model")  # type: ignore[operator]
    make_tokenizer().save_pretrained(folder / "model")
    steps = tuple(Step(thought="hm", action=f"ls {name}", observation="ok", exit_code=0) for name in "abcdef")
    trajectory = Trajectory(
        trajectory_id="t", instance_id="i", problem_statement="say a", steps=steps, patch="", source="made here",
        model="", resolved=None,
    )  # fmt: skip
    write_steps([CompiledTrajectory(trajectory=trajectory, targets=tuple(range(6)))], folder / "steps", header={})
    return [
        "--data", str(folder / "steps"), "--model", str(folder / "model"),
        "--instances", str(write_instances(folder / "instances.jsonl", "ab")),
        "--validation-instances", str(write_instances(folder / "held_out.jsonl", "c")),
        "--num-iterations", "1", "--prompts-per-iteration", "1", "--rollouts-per-prompt", "2", "--max-refills", "0",
        "--max-prompt-tokens", "2000", "--max-completion-tokens", "8", "--tokens-per-pack", "3000",
        "--dtype", "float32", "--device", "cpu", "--threads", "1", "--max-malformed", "1", "--seed", "3",
    ]  # fmt: skip


def test_three_stages_in_one_folder(
    words: list[str], acting_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    own = ["--curriculum", "sft,srl", "--output", str(output)]
    options = ["--stage-options", "sft.num-iterations=2", "sft.max-completion-tokens=200"]
    assert run([*words, *own, *options]) == 0
    said = capsys.readouterr().out
    assert f"stage 2 of 2: srl, from {output / 'sft' / 'last'}" in said
    assert (output / "best").resolve() == (output / "srl" / "last").resolve()
    before = read_metrics(output / "srl")

    # Another stage goes on from there, and what is done is not done again.
    own[1] = "sft,srl,rlvr"
    assert run([*words, *own, *options]) == 0
    said = capsys.readouterr().out
    assert f"stage 3 of 3: rlvr, from {output / 'srl' / 'last'}" in said
    assert read_metrics(output / "srl") == before
    assert [len(read_metrics(output / stage)) for stage in ("sft", "srl", "rlvr")] == [3, 2, 2]
    last = read_metrics(output / "rlvr")[-1]
    # Nothing that the tiny model says has the form: every episode ends at once, is judged, and is unresolved.
    assert (last["episodes/sampled"], last["episodes/ended_malformed"], last["episodes/invalid"]) == (2, 2, 0)
    assert (last["validation/resolve_rate"], last["validation/examples"]) == (0.0, 1)
    assert (output / "best").resolve() == (output / "rlvr" / "best").resolve()
    config = json.loads((output / "rlvr" / "config.json").read_text())
    assert (config["model"], config["max_malformed"]) == (str(output / "srl" / "last"), 1)
    assert len(config["instances_hash"]) == 64

    with pytest.raises(ConfigError, match="holds the curriculum sft,srl,rlvr, not srl,rlvr"):
        run([*words, "--curriculum", "srl,rlvr", "--output", str(output)])
    # One method alone, from a model by its other name.
    assert run([*words, "--method", "rlvr", "--init", str(output / "best"), "--output", str(tmp_path / "more")]) == 0
    assert len(read_metrics(tmp_path / "more")) == 2


def test_what_is_wrong_with_a_later_stage_is_said_before_the_first(words: list[str], tmp_path: Path) -> None:
    place = words.index("--instances")
    without = words[:place] + words[place + 2 :]
    with pytest.raises(ConfigError, match="acts on instances: say which with --instances FILE"):
        run([*without, "--curriculum", "srl,rlvr", "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="compares actions with an expert's: give --trajectories PATH"):
        run([*words, "--method", "rlvr", "--similarity-weight", "0.5", "--output", str(tmp_path / "run")])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and holds no curriculum"):
        run([*words, "--curriculum", "srl,rlvr", "--output", str(tmp_path / "full")])
    with pytest.raises(ConfigError, match="1 instances are for training and for validation, letters-a among them"):
        again = write_instances(tmp_path / "again.jsonl", "a")
        run([*words, "--method", "rlvr", "--validation-instances", str(again), "--output", str(tmp_path / "run")])


def test_words_of_a_stage() -> None:
    assert parse_stages("srl, rlvr") == ("srl", "rlvr")
    for wrong in ("ppo", "srl,", "srl,srl"):
        with pytest.raises(ConfigError, match="each once, for example srl,rlvr"):
            parse_stages(wrong)
    stages = parse_stages("srl,rlvr")
    found = stage_words(["--a"], "rlvr", stages, ["rlvr.max_steps=10", "srl.seed=1", "rlvr.no-mask-overlong"])
    assert found == ["--a", "--curriculum", "", "--stage-options", "--method", "rlvr", "--max-steps", "10",
                     "--no-mask-overlong"]  # fmt: skip
    for wrong in ("max-steps=10", "sft.seed=1", "rlvr."):
        with pytest.raises(ConfigError, match=r"must look like rlvr\.max-steps=10"):
            stage_words([], "rlvr", stages, [wrong])


def test_the_rows_of_these_tests_are_the_instances(tmp_path: Path) -> None:
    from srl_swe.environments.instances import load_instances

    [instance] = load_instances(write_instances(tmp_path / "a.jsonl", "a"))
    assert asdict(instance)["tests"]["script"] == INSTANCE.tests.script


def test_prompts_are_made_as_the_model_was_trained(capsys: pytest.CaptureFixture[str]) -> None:
    default, trained, other = PromptLimits(), PromptLimits(history=1), PromptLimits(history=5)
    assert chosen_limits(default, default) == default
    assert capsys.readouterr().out == ""
    assert chosen_limits(default, trained) == trained
    assert "history=1, max_observation_chars=4000), as the model was trained" in capsys.readouterr().out
    assert chosen_limits(other, trained) == other
    assert "but the model was trained with PromptLimits(history=1" in capsys.readouterr().out
