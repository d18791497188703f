"""The recipes load and are valid, and what the command line says wins."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import tyro

from srl_swe.cli.recipes import expand_recipe
from srl_swe.cli.train import TrainCommand, run
from srl_swe.errors import ConfigError
from srl_swe.prompts import PromptLimits
from srl_swe.training.config import PAPER_RECIPES, TrainConfig

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
KNOWN = {option.name for group in (TrainConfig, PromptLimits) for option in fields(group)}
NEEDED = ["--model", "m", "--output", "o"]


def load(path: Path, *words: str) -> TrainCommand:
    return tyro.cli(TrainCommand, args=expand_recipe(["--recipe", str(path), *NEEDED, *words], known=KNOWN))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_says_what_it_writes(path: Path) -> None:
    command = load(path)
    for name, value in tomllib.loads(path.read_text()).items():
        group = command.train if name in {option.name for option in fields(TrainConfig)} else command.prompts
        assert getattr(group, name) == value, name


def test_there_is_one_for_each_machine() -> None:
    assert [path.stem for path in RECIPES] == ["cpu-smoke", "gpu-24gb", "gpu-80gb", "paper-7b"]


def test_the_papers_recipe_is_the_papers() -> None:
    config = load(ROOT / "recipes" / "paper-7b.toml").train
    assert config.recipe == PAPER_RECIPES["srl"]
    assert (config.rollouts_per_prompt, config.temperature, config.max_grad_norm, config.kl_coef) == (8, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("words", [["--learning-rate", "1e-3"], ["--learning-rate=1e-3"]])
def test_the_command_line_wins(words: list[str]) -> None:
    path = ROOT / "recipes" / "gpu-24gb.toml"
    assert load(path, *words).train.learning_rate == 1e-3
    assert load(path, "--no-gradient-checkpointing").train.gradient_checkpointing is False
    after = [*NEEDED, *words, f"--recipe={path}"]
    assert tyro.cli(TrainCommand, args=expand_recipe(after, known=KNOWN)).train.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learnign_rate = 1.0", "learnign_rate, which is no option"),
        ("learning_rate = ", "no TOML"),
        ("[train]\nlearning_rate = 1.0", "train, which is no option"),
        ("seed = 1979-05-27", "seed must be text, a number"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        run(["--recipe", str(path), *NEEDED])


def test_a_value_out_of_range_is_refused_as_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text("learning_rate = 2.0")
    with pytest.raises(SystemExit):
        run(["--recipe", str(tmp_path / "mine.toml"), *NEEDED])
    assert "learning_rate must be a number in (0, 1), found 2.0" in capsys.readouterr().err


def test_a_missing_recipe() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read.*recipes/"):
        run(["--recipe", "nowhere.toml", *NEEDED])
    with pytest.raises(ConfigError, match="needs a file"):
        run(["--recipe"])
    with pytest.raises(ConfigError, match="once, found 2 times"):
        run(["--recipe", "a", "--recipe=b"])
