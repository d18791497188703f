"""Profiles are what sampler and reward say, and an interrupted one becomes the same file as an uninterrupted one."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.curation.profile import TOO_LONG, profile_set, step_seed
from srl_swe.curation.profile_file import StepProfile, fingerprint_model, open_profile, read_profile
from srl_swe.errors import ConfigError, DataError, ModelError
from srl_swe.training.domain import Domain
from srl_swe.training.policy import Policy
from srl_swe.training.rollouts import make_group
from srl_swe.training.transformers_sampler import TransformersSampler
from srl_swe.trajectories.store import PROFILE, read_steps, write_steps
from srl_swe.types import CompiledTrajectory, StepExample, Trajectory
from srl_swe.types import Step as TrajectoryStep
from tests.curation.run_profile import OPTIONS
from tests.training.tiny import DOMAIN, LETTERS, write_model

ROOT = Path(__file__).parents[2]
LONG = 3
"""Index of the trajectory whose prompt is too long."""


def compiled(index: int) -> CompiledTrajectory:
    """Two steps whose expert says what the problem names."""
    letter = LETTERS[index]
    steps = tuple(
        TrajectoryStep(thought="hm", action=letter * (k + 1), observation="ok", exit_code=0) for k in range(2)
    )
    trajectory = Trajectory(
        trajectory_id=f"t{index}",
        instance_id=f"i{index}",
        problem_statement=f"say {letter}" + " please" * 20 * (index == LONG),
        steps=steps,
        patch="",
        source="made",
        model="",
        resolved=None,
    )
    return CompiledTrajectory(trajectory=trajectory, targets=(0, 1))


def write_set(folder: Path, count: int = 8) -> Path:
    write_steps([compiled(index) for index in range(count)], folder, header={})
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    return write_set(tmp_path / "steps")


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The profile of an uninterrupted run."""
    folder = write_set(tmp_path_factory.mktemp("whole") / "steps")
    profile_set(folder, model, OPTIONS, domain=DOMAIN)
    return (folder / PROFILE).read_bytes()


def interrupted_after(num_prompts: int) -> Domain:
    """A domain in which Ctrl-C is pressed at the next prompt after so many."""
    seen: list[str] = []

    def render(example: StepExample) -> list[dict[str, str]]:
        seen.append(example.example_id)
        if len(seen) > num_prompts:
            raise KeyboardInterrupt
        return DOMAIN.render(example)

    return replace(DOMAIN, render=render)


def test_rewards_are_what_sampler_and_reward_say(steps: Path, model: Path) -> None:
    found = profile_set(steps, model, OPTIONS, domain=DOMAIN)
    policy = Policy.from_pretrained(model)
    sampler = TransformersSampler(policy, cached_tokens=1000, concurrent_rollouts=4)
    examples = list(read_steps(steps))
    assert [step.example_id for step in found.steps] == [example.example_id for example in examples]
    for step, example in zip(found.steps, examples, strict=True):
        prompt = policy.encode_prompt(DOMAIN.render(example))
        assert step.prompt_tokens == len(prompt)
        if example.trajectory_id == f"t{LONG}":
            assert step.skipped == TOO_LONG
            continue
        # Alone, not in the company of its batch.
        [completions] = sampler.sample(
            [prompt],
            num_rollouts=4,
            max_completion_tokens=12,
            temperature=1.0,
            seed=[step_seed(0, example.example_id)],
        )
        group = make_group(example, prompt, completions, DOMAIN)
        scored = [(rollout.reward, rollout.reward_parts) for rollout in group.rollouts]
        assert step.rewards == tuple(reward for reward, _ in scored)
        assert step.well_formed == sum(parts["well_formed"] for _, parts in scored)
    assert {step.well_formed for step in found.steps} > {0}
    # Steps of one trajectory have the same prompt here, and seeds of their own.
    assert len({step.rewards for step in found.steps if not step.skipped}) > 8
    again = profile_set(steps, model, replace(OPTIONS, seed=1), domain=DOMAIN, out=steps.parent / "other.jsonl")
    assert [step.rewards for step in again.steps] != [step.rewards for step in found.steps]


def test_lines_by_hand() -> None:
    step = StepProfile(
        example_id="t#0", prompt_tokens=9, rewards=(-1.0, 0.0, 0.5, 0.5), well_formed=3, similarity_std=0.25
    )
    assert step.as_record() == {
        "example_id": "t#0",
        "prompt_tokens": 9,
        "rewards": [-1.0, 0.0, 0.5, 0.5],
        "well_formed": 3,
        "mean": 0.0,
        "std": pytest.approx(0.375**0.5),
        "similarity_std": 0.25,
    }
    skipped = StepProfile(example_id="t#1", prompt_tokens=99, skipped=TOO_LONG)
    assert skipped.as_record() == {"example_id": "t#1", "prompt_tokens": 99, "skipped": TOO_LONG}


@pytest.mark.parametrize("num_prompts", [0, 1, 2, 5, 13])
def test_ctrl_c_keeps_what_is_done(steps: Path, model: Path, whole: bytes, num_prompts: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        profile_set(steps, model, OPTIONS, domain=interrupted_after(num_prompts))
    # The header, and whole batches of two.
    assert (steps / PROFILE).read_bytes().count(b"\n") == 1 + num_prompts // 2 * 2
    profile_set(steps, model, OPTIONS, domain=DOMAIN)
    assert (steps / PROFILE).read_bytes() == whole


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_torn_end_is_repaired(steps: Path, model: Path, whole: bytes, cut: int) -> None:
    (steps / PROFILE).write_bytes(whole[:-cut])
    profile_set(steps, model, OPTIONS, domain=DOMAIN)
    assert (steps / PROFILE).read_bytes() == whole


def test_a_killed_run_goes_on(steps: Path, model: Path, whole: bytes) -> None:
    out = steps.parent / "killed.jsonl"
    command = [sys.executable, "-m", "tests.curation.run_profile", str(steps), str(model), str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not out.exists() or out.read_bytes().count(b"\n") < 5:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"it did not get to 5 lines: {process.communicate()[0]}")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert out.read_bytes().count(b"\n") < 17, "it was over before it was killed"
    profile_set(steps, model, OPTIONS, domain=DOMAIN, out=out)
    assert out.read_bytes() == whole


def test_a_limit_may_be_raised(steps: Path, model: Path, whole: bytes) -> None:
    assert len(profile_set(steps, model, OPTIONS, domain=DOMAIN, limit=5).steps) == 5
    assert len(profile_set(steps, model, OPTIONS, domain=interrupted_after(0), limit=4).steps) == 5
    profile_set(steps, model, OPTIONS, domain=DOMAIN)
    assert (steps / PROFILE).read_bytes() == whole


def test_a_complete_profile_samples_nothing(steps: Path, model: Path) -> None:
    first = profile_set(steps, model, OPTIONS, domain=DOMAIN)
    assert profile_set(steps, model, OPTIONS, domain=interrupted_after(0)) == first


def test_another_set_model_or_option_is_refused(steps: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.jsonl"
    profile_set(steps, model, OPTIONS, domain=DOMAIN, out=out)
    before = out.read_bytes()
    with pytest.raises(ConfigError, match=r"samples: 4 then, 3 now.*--out FILE.*delete it"):
        profile_set(steps, model, replace(OPTIONS, samples=3), domain=DOMAIN, out=out)
    with pytest.raises(ConfigError, match="model_fingerprint"):
        profile_set(steps, write_model(tmp_path / "other", seed=1), OPTIONS, domain=DOMAIN, out=out)
    with pytest.raises(ConfigError, match="history: None then, 3 now"):
        profile_set(steps, model, OPTIONS, domain=replace(DOMAIN, options={"history": 3}), out=out)
    with pytest.raises(ConfigError, match="content_hash"):
        profile_set(write_set(tmp_path / "newer", 7), model, OPTIONS, domain=DOMAIN, out=out)
    assert out.read_bytes() == before
    # How much is decoded at once, and where the model lies, decide nothing.
    moved = shutil.copytree(model, tmp_path / "moved")
    profile_set(steps, moved, replace(OPTIONS, concurrent_rollouts=64), domain=DOMAIN, out=out)


def test_a_new_set_takes_the_old_profile_away(steps: Path, model: Path) -> None:
    profile_set(steps, model, OPTIONS, domain=DOMAIN)
    write_set(steps, 7)
    assert not (steps / PROFILE).exists()


def test_a_run_that_never_sampled_protects_nothing(steps: Path, model: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError):
        profile_set(steps, broken, OPTIONS, domain=DOMAIN)
    assert len(profile_set(steps, model, OPTIONS, domain=DOMAIN, limit=2).steps) == 2


def test_one_writer(steps: Path, model: Path) -> None:
    header = profile_set(steps, model, OPTIONS, domain=DOMAIN, limit=2).header
    with (
        open_profile(steps / PROFILE, header),
        pytest.raises(ConfigError, match="another process"),
        open_profile(steps / PROFILE, header),
    ):
        pass


def test_what_is_no_profile_is_named(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / PROFILE
    with pytest.raises(DataError, match="cannot be read"):
        read_profile(path)
    for text, message in (
        ("", "empty"),
        ('{"schema_version": 9}\n', r"line 1: expected the header.*found version 9"),
        (whole.decode() + "nonsense\n", "line 18: not JSON"),
        (whole.decode() + '{"example_id": "x", "prompt_tokens": 3}\n', "line 18: expected either rewards or why"),
        (whole.decode() + whole.decode().splitlines()[1] + "\n", "line 18: step t0#0 is there twice"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_profile(path)


def test_the_fingerprint_is_the_models_alone(model: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(model, tmp_path / "model")
    (copied / "trainer_state.json").write_text("{}")
    assert fingerprint_model(copied) == fingerprint_model(model)
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1.0}))
    assert fingerprint_model(copied) != fingerprint_model(model)
    with pytest.raises(ModelError, match="no model folder"):
        fingerprint_model(tmp_path / "absent")


def test_options_are_checked() -> None:
    for name, value in (("samples", 1), ("temperature", 0.0), ("seed", -1), ("max_completion_tokens", 0)):
        with pytest.raises(ConfigError, match=name):
            replace(OPTIONS, **{name: value})
    with pytest.raises(ConfigError, match=r"room for one group.*= 88, found 87"):
        replace(OPTIONS, cached_tokens=87)
