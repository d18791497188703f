"""`srl-swe compare` with instances: rlvr among the methods, and the resolve rate of every model, in real containers."""

import json
from pathlib import Path

import pytest

from srl_swe.cli.compare import run
from srl_swe.environments.engine import Engine
from srl_swe.errors import ConfigError
from tests.cli.run_compare import write_letters

from .test_curriculum import write_instances
from .tiny import make_model, make_tokenizer

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of runs whose prompts fit the model and whose answers are never right."""
    folder = tmp_path_factory.mktemp("compared")
    model = make_model()
    model.config.max_position_embeddings = 4096  # type: ignore[union-attr,assignment]
    model.save_pretrained(folder / "model")  # type: ignore[operator]
    make_tokenizer().save_pretrained(folder / "model")
    return [
        "--data", str(write_letters(folder / "steps", num_train=4, num_held_out=2)), "--model", str(folder / "model"),
        "--instances", str(write_instances(folder / "instances.jsonl", "ab")), "--seeds", "1",
        "--num-iterations", "1", "--prompts-per-iteration", "1", "--rollouts-per-prompt", "2", "--max-refills", "0",
        "--max-prompt-tokens", "2000", "--max-completion-tokens", "200", "--tokens-per-pack", "3000",
        "--dtype", "float32", "--device", "cpu", "--threads", "1", "--max-malformed", "1", "--max-steps", "1",
    ]  # fmt: skip


def test_rlvr_and_the_resolve_rate(
    words: list[str], acting_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "compare"
    held_out = write_instances(tmp_path / "held_out.jsonl", "bc")
    own = [*words, "--methods", "sft,rlvr", "--output", str(output), "--validation-instances", str(held_out)]
    assert run(own) == 0
    assert "resolve rate: 1 of 2 instances; the others are trained on" in capsys.readouterr().out
    found = json.loads((output / "comparison.json").read_text())
    for one in (found["start"], *found["methods"]):
        rate = one["resolve_rate"]
        assert (rate["num_resolved"], rate["num_episodes"], rate["num_invalid"]) == (0, 1, 0)
        assert (rate["low"], rate["high"]) == (0.0, pytest.approx(0.7935, abs=1e-4))
    config = json.loads((output / "rlvr" / "seed-0" / "rlvr" / "config.json").read_text())
    assert (config["method"], config["max_malformed"]) == ("rlvr", 1)
    # Verdicts and models are there: the second time nothing acts.
    assert run(own) == 0
    said = capsys.readouterr().out
    assert said.count("trained before") == 2
    assert json.loads((output / "comparison.json").read_text()) == found


def test_instances_that_are_all_trained_on(words: list[str], tmp_path: Path) -> None:
    held_out = write_instances(tmp_path / "held_out.jsonl", "a")
    own = [*words, "--methods", "rlvr", "--output", str(tmp_path / "run"), "--validation-instances", str(held_out)]
    with pytest.raises(ConfigError, match=r"all 1 instances of .* are trained on"):
        run(own)
