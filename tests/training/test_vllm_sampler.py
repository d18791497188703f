"""The vLLM sampler with real engines, on a tiny model in float32."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from srl_swe.errors import SamplerError
from srl_swe.training.checkpoint import newest_checkpoint
from srl_swe.training.policy import Policy
from srl_swe.training.samplers import SampledCompletion
from srl_swe.training.trainer import train
from srl_swe.training.transformers_sampler import TransformersSampler
from srl_swe.training.vllm_sampler import VLLMSampler

from .run_tiny import tiny_config
from .test_processes import start as start_processes
from .test_resume import wait_for_lines
from .tiny import DOMAIN, make_examples, make_model, make_tokenizer, write_model
from .vllm_checks import HEAD_WIDTH, PROMPTS, check_logprobs, sample, train_some

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm")
pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("vllm"), head_width=HEAD_WIDTH)


@pytest.fixture(scope="module")
def engine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMSampler]:
    """One engine for the tests of this file, as starting it takes half a minute."""
    folder = tmp_path_factory.mktemp("engine") / "engine"
    with VLLMSampler(
        Policy.from_pretrained(model), folder=folder, max_row_tokens=200, cached_tokens=20_000, concurrent_rollouts=8
    ) as sampler:
        yield sampler
    assert not folder.exists()


@pytest.fixture
def policy(model: Path, engine: VLLMSampler) -> Policy:
    """The policy as the engine has it."""
    policy = Policy.from_pretrained(model)
    # More ways to stop, so that rollouts of one prompt end at different times.
    policy.stop_ids |= {0, 5, 9, 17}
    engine.update_weights(policy)
    return policy


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_logprobs_are_those_of_a_full_forward_pass(policy: Policy, engine: VLLMSampler, temperature: float) -> None:
    groups = sample(engine, temperature=temperature)
    check_logprobs(policy, groups, temperature)
    completions = [completion for group in groups for completion in group]
    assert len(completions) == 4 * len(PROMPTS)
    for completion in completions:
        stopped = completion.ids[-1] in policy.stop_ids
        assert completion.stop_reason == ("stop" if stopped else "length")
        assert stopped or len(completion.ids) == 9
        assert not any(token in policy.stop_ids for token in completion.ids[:-1])
        assert "<|im_end|>" not in completion.text
    if temperature == 1:
        assert {completion.stop_reason for completion in completions} == {"stop", "length"}


def test_both_samplers_agree_after_training_steps(policy: Policy, engine: VLLMSampler, tmp_path: Path) -> None:
    embedded = TransformersSampler(policy, cached_tokens=1000, concurrent_rollouts=8)
    before = sample(engine, temperature=0.0)
    assert [[c.ids for c in group] for group in before] == [[c.ids for c in g] for g in sample(embedded, temperature=0)]
    train_some(policy, tmp_path)
    # Not told yet: the engine still has the earlier weights, so the comparison below can fail.
    with pytest.raises(AssertionError):
        check_logprobs(policy, sample(engine), 1.0)
    for sampler in (engine, embedded):
        sampler.update_weights(policy)
    for temperature in (0.0, 1.0):
        # The prompts were sampled from before: keys and values of the earlier weights must be gone.
        check_logprobs(policy, sample(engine, temperature=temperature), temperature)
    for ours, theirs in zip(sample(engine, temperature=0.0), sample(embedded, temperature=0.0), strict=True):
        assert [completion.ids for completion in ours] == [completion.ids for completion in theirs]
        for our, their in zip(ours, theirs, strict=True):
            assert our.logprobs == pytest.approx(their.logprobs, abs=1e-4)
    assert sample(engine, temperature=0.0) != before


def test_seeds_decide(policy: Policy, engine: VLLMSampler) -> None:
    def ids(groups: list[list[SampledCompletion]]) -> list[list[tuple[int, ...]]]:
        return [[completion.ids for completion in group] for group in groups]

    first = ids(sample(engine))
    assert ids(sample(engine)) == first
    assert ids(sample(engine, seed=4)) != first
    assert all(len(set(group)) > 1 for group in first)
    together = ids(sample(engine, seed=[11, 12, 13, 14]))
    alone = engine.sample(PROMPTS[2:3], num_rollouts=4, max_completion_tokens=9, temperature=1.0, seed=[13])
    assert ids(alone) == [together[2]]


def test_a_prompt_is_computed_once_for_its_group(policy: Policy, engine: VLLMSampler) -> None:
    engine.prompt_tokens = engine.cached_prompt_tokens = 0
    sample(engine)
    assert engine.prompt_tokens == 4 * sum(map(len, PROMPTS))
    # Blocks have 128 tokens: of the prompt of 160, three of four rollouts find the first in the cache.
    assert engine.cached_prompt_tokens == 3 * 128


def test_progress_is_told_per_prompt(policy: Policy, engine: VLLMSampler) -> None:
    done: list[None] = []
    options = {"num_rollouts": 2, "max_completion_tokens": 3, "temperature": 1.0, "seed": 0}
    engine.sample(PROMPTS, on_prompt_done=lambda: done.append(None), **options)
    assert len(done) == len(PROMPTS)


def test_a_later_completion_overtakes_a_longer_one(policy: Policy, engine: VLLMSampler) -> None:
    policy.stop_ids = frozenset()
    engine.update_weights(policy)
    options = {"temperature": 0.0, "seed": 0}
    long = engine.add(PROMPTS[0], max_completion_tokens=40, **options)
    assert engine.step() == []
    short = engine.add(PROMPTS[1], max_completion_tokens=3, **options)
    done: dict[str, SampledCompletion] = {}
    while len(done) < 2:
        done.update(engine.step())
    assert list(done) == [short, long]
    for name, prompt, count in ((long, PROMPTS[0], 40), (short, PROMPTS[1], 3)):
        [[alone]] = engine.sample([prompt], num_rollouts=1, max_completion_tokens=count, **options)
        assert done[name].ids == alone.ids


def test_another_vocabulary_is_refused(policy: Policy, engine: VLLMSampler) -> None:
    other = Policy(make_model(vocab_size=40, head_width=HEAD_WIDTH), make_tokenizer(), source="other")
    with pytest.raises(SamplerError, match="vocabulary of 40 tokens, the sampling engine one of 32"):
        engine.update_weights(other)
    wider = Policy(make_model(head_width=2 * HEAD_WIDTH), make_tokenizer(), source="wider")
    with pytest.raises(SamplerError, match=r"lm_head.weight is \(32, 256\), the engine's is \(32, 128\)"):
        engine.update_weights(wider)


def test_a_prompt_that_does_not_fit_is_an_error_and_the_engine_goes_on(policy: Policy, engine: VLLMSampler) -> None:
    with pytest.raises(SamplerError, match=r"vLLM failed while sampling: .*200"):
        engine.sample([[1], [1] * 300], num_rollouts=2, max_completion_tokens=4, temperature=1.0, seed=0)
    check_logprobs(policy, sample(engine), 1.0)


def start(model: Path, output: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.training.run_tiny", str(model), str(output), "srl", '{"sampler": "vllm"}']
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def iterations(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    return [json.loads(line)["iteration"] for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(process: "subprocess.Popen[str]", output: Path, iteration: int) -> list[psutil.Process]:
    """Wait until the run has reported an iteration; return the engine's processes."""
    deadline = time.monotonic() + 300
    while iteration not in iterations(output):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the run did not get to iteration {iteration}: {process.communicate()[0]}")
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    engine = [child for child in children if "VLLM" in " ".join(child.cmdline())]
    assert len(engine) == 2, [child.cmdline() for child in children]
    return engine


def test_a_run_goes_on_after_its_engine_was_killed(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(model, run)
    engine = wait_for(process, run, 3)
    # The core and its worker, either of which may be the one that the system kills for memory.
    engine[0].send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode not in (0, -signal.SIGKILL)
    assert "SamplerLostError: the vLLM engine ended while" in output
    assert "run the same command again to go on after iteration" in output
    psutil.wait_procs(engine, timeout=30)
    assert not any(child.is_running() for child in engine)
    reached = iterations(run)[-1]
    assert 3 <= reached < 10, "the run was over before its engine was killed"
    kept = newest_checkpoint(run)
    assert kept is not None
    assert not (run / "engine").exists()
    # Every iteration that was reported is kept, though checkpoints are due at even ones only.
    assert json.loads((kept / "trainer_state.json").read_text())["iteration"] == reached

    # A trainer that is killed itself takes its engine along, and leaves a run that goes on as well.
    process = start(model, run)
    engine = wait_for(process, run, reached + 1)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(engine, timeout=60)
    assert not alive
    assert len(iterations(run)) < 11

    result = train(
        tiny_config(model, run, "srl", sampler="vllm"), make_examples(20), make_examples(6, prefix="v"), DOMAIN
    )
    assert (result.iterations, result.ending) == (10, "done")
    assert iterations(run) == list(range(11))
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["train/importance_ratio_mean"] == pytest.approx(1, abs=1e-3)
    assert last["train/importance_truncated_share"] == 0
    assert "LD_PRELOAD" not in os.environ


def test_two_processes_have_an_engine_each_and_leave_together_when_one_dies(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_processes(model, run, "run_sharded", "srl", sampler="vllm", num_iterations=1000)
    wait_for_lines(process, run, 4)
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "VLLM::Worker" in " ".join(child.cmdline())]
    assert len(workers) == 2, [child.cmdline() for child in children]
    workers[1].send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "SamplerLostError: the vLLM engine ended while" in output, output
    assert "run the same command again to go on after iteration" in output
    psutil.wait_procs(children, timeout=30)
    assert not any(child.is_running() for child in children)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = newest_checkpoint(run)
    assert kept is not None
    assert json.loads((kept / "trainer_state.json").read_text())["iteration"] == lines[-1]["iteration"]
    assert not (run / "engine").exists()
    trained = [line for line in lines if "train/loss" in line]
    assert len(trained) > 1
    for line in trained:
        # The weights that each engine samples from are those of the shards put together.
        assert line["train/importance_ratio_mean"] == pytest.approx(1, abs=1e-3)
        assert line["train/importance_truncated_share"] == 0
