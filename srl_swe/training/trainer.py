"""The training loop: collect a batch, update, validate, checkpoint.

An iteration has two halves, between which a run may stop and go on: its update, and its end (validation, metrics,
checkpoint). Iteration 0 has an end only. Leaves out how each of these is done. The same loop serves SFT, SRL and RLVR;
only what they collect, and how they are validated, differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from srl_swe.errors import ConfigError, NoSignalError, SamplerLostError
from srl_swe.training.batches import Batch
from srl_swe.training.checkpoint import TrainState, save_best, save_checkpoint
from srl_swe.training.config import TrainConfig
from srl_swe.training.domain import Acting, Domain
from srl_swe.training.faults import in_iteration
from srl_swe.training.outcome import collect_episodes, validate_episodes
from srl_swe.training.rollouts import collect_groups
from srl_swe.training.run import Run, how_to_resume, open_run
from srl_swe.training.sft import collect_targets
from srl_swe.training.termination import LAUNCHED_GRACE_S, Terminated, Termination
from srl_swe.training.update import update_policy
from srl_swe.training.validation import validate
from srl_swe.types import StepExample

Ending = Literal["done", "patience", "flat", "terminated"]
"""All iterations; validation stopped improving; no signal for long; SIGTERM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a run leaves."""

    output: Path
    iterations: int
    initial_reward: float | None
    """Validation reward before training; None without validation examples."""
    best_reward: float | None
    best_iteration: int | None
    best_model: Path | None
    """Folder of the best model on validation."""
    last_model: Path
    ending: Ending


def train(
    config: TrainConfig,
    train_examples: Sequence[StepExample],
    validation_examples: Sequence[StepExample],
    domain: Domain,
    *,
    acting: Acting | None = None,
    selection: Mapping[str, object] = MappingProxyType({}),
    termination: Termination | None = None,
) -> TrainResult:
    """Train, or continue the run that lies in `config.output`; return when it has ended.

    `selection` says which set this is and by what rule the training examples were chosen, as JSON values: written down
    with the options, and a resumed run must have the same. With an open `termination`, SIGTERM ends the run early.
    RLVR plays episodes where `acting` says; its examples are the starts of instances, with empty histories.

    Raises:
        ConfigError: the output folder holds something else, or a run with other options or data.
        DataError: no usable step examples.
        ModelError: the model folder lacks something.
        CheckpointError: a checkpoint cannot be written or read.
        DivergenceError: a loss or gradient is not finite.
        ContainerError: infrastructure left no episode of an iteration with a reward.
        SamplerLostError: the sampling engine is gone; the state until then is saved.
        NoSignalError: no group has carried signal for `max_flat_iterations` iterations.
        MemoryExhaustedError: the memory does not hold the model, a pack or the sampler's cache.
        KeyboardInterrupt: stopped by the user, or one of several processes by SIGTERM in the middle of an iteration;
            the same command continues from the last checkpoint.
    """
    termination = termination or Termination()
    if config.method == "rlvr" and acting is None:
        raise ConfigError("method rlvr plays episodes: say where (acting)")
    with open_run(config, train_examples, validation_examples, domain, selection=selection, acting=acting) as run:
        try:
            if run.processes.count > 1:
                termination.grace_s = LAUNCHED_GRACE_S
                termination.hold()
            ending = _loop(run, termination)
        except Terminated:
            if termination.held and run.processes.count > 1:
                raise  # the others may wait for this process; the launcher ends them when it has gone
            ending = "terminated"
            # Where an update had begun, the weights are of no iteration: the checkpoint on disk stands.
            if not termination.held:
                termination.hold()
                _save(run)
            run.display.note(f"SIGTERM: {how_to_resume(config)}")
        except SamplerLostError as error:
            # It is lost between updates only, where the weights are whole.
            _save(run)
            run.processes.part()
            raise SamplerLostError(f"{error} The run is saved; {how_to_resume(config)}.") from error
        state = run.state
    if ending == "flat":
        raise NoSignalError(_no_signal(config, state))
    return TrainResult(
        output=config.output,
        iterations=state.iteration,
        initial_reward=state.initial_reward,
        best_reward=state.best_reward,
        best_iteration=state.best_iteration,
        best_model=config.output / "best" if state.best_iteration is not None else None,
        last_model=config.output / "last",
        ending=ending,
    )


def _loop(run: Run, termination: Termination) -> Ending:
    while True:
        if run.state.pending is not None:
            _end_iteration(run, run.state.pending, termination)
        ending = _ending(run.state, run)
        if ending is not None:
            return ending
        _begin_iteration(run, termination)


def _ending(state: TrainState, run: Run) -> Ending | None:
    budget = run.config.max_trained_tokens
    if state.iteration >= run.num_iterations or (budget is not None and state.trained_tokens >= budget):
        return "done"
    if run.config.patience is not None and state.validations_without_gain >= run.config.patience:
        return "patience"
    return "flat" if state.flat_iterations >= run.config.max_flat_iterations else None


def _begin_iteration(run: Run, termination: Termination) -> None:
    """Collect and update; the state then waits for its validation and its line of metrics."""
    iteration = run.state.iteration + 1
    batch = _collect(run)
    metrics = dict(batch.metrics)
    if batch.rows:
        with run.display.stage("training"), in_iteration(iteration):
            metrics |= update_policy(
                run.policy,
                batch,
                optimizer=run.optimizer,
                processes=run.processes,
                learning_rate=_learning_rate(run, iteration, batch),
                config=run.config,
                reference=run.reference,
                before_step=termination.hold,
            )
    termination.hold()
    run.state = _advanced(run.state, batch, metrics)
    _release(run, termination)


def _learning_rate(run: Run, iteration: int, batch: Batch) -> float:
    if run.config.max_trained_tokens is None:
        return run.config.learning_rate_at(iteration, run.num_iterations)
    # In the middle of the batch, so that neither the first rate nor the last is 0.
    return run.config.learning_rate_after(run.state.trained_tokens + batch.trained_tokens / 2)


def _end_iteration(run: Run, metrics: Mapping[str, float], termination: Termination) -> None:
    """Validate where it is time, report, and write a checkpoint where it is time."""
    iteration = run.state.iteration
    due = iteration % run.config.validate_every == 0 or _ending(run.state, run) is not None
    validation = _validate(run) if due and run.validation_examples else {}
    termination.hold()
    if validation:
        _keep_best(run, validation)
    run.state = replace(run.state, pending=None)
    run.report({**metrics, **validation})
    last = _ending(run.state, run) is not None
    if iteration and (last or iteration % run.config.checkpoint_interval == 0):
        _save(run)
    _release(run, termination)


def _release(run: Run, termination: Termination) -> None:
    """The state can be saved. Several processes leave here together, or not at all: they wait for each other."""
    if run.processes.count == 1:
        termination.release()
        return
    if run.processes.any(termination.requested):
        termination.release(terminate=True)
    termination.hold()


def _save(run: Run) -> None:
    if run.saved == run.state:
        return
    save_checkpoint(
        run.config.output,
        run.state,
        policy=run.policy,
        domain=run.domain,
        optimizer=run.optimizer,
        keep=run.config.keep_checkpoints,
        processes=run.processes,
    )
    run.saved = run.state


def _collect(run: Run) -> Batch:
    with run.display.stage("collecting" if run.config.method == "sft" else "sampling"):
        if run.config.method == "sft":
            return collect_targets(
                run.train_examples, drawn=run.state.drawn, policy=run.policy, domain=run.domain, config=run.config
            )
        run.sampler.update_weights(run.policy)
        if run.acting is not None:
            return collect_episodes(
                run.train_examples,
                drawn=run.state.drawn,
                policy=run.policy,
                sampler=run.sampler,
                domain=run.domain,
                acting=run.acting,
                config=run.config,
                processes=run.processes,
                on_sampling=run.display.expect,
                on_episode_done=run.display.step,
                refill=run.state.refill,
            )
        return collect_groups(
            run.train_examples,
            drawn=run.state.drawn,
            policy=run.policy,
            sampler=run.shared_sampler,
            domain=run.domain,
            config=run.config,
            on_sampling=run.display.expect,
            on_prompt_done=run.display.step,
            refill=run.state.refill,
        )


def _advanced(state: TrainState, batch: Batch, metrics: dict[str, float]) -> TrainState:
    completion_tokens = sum(value for key, value in metrics.items() if key.endswith("/completion_tokens"))
    return replace(
        state,
        iteration=state.iteration + 1,
        drawn=state.drawn + batch.drawn,
        completion_tokens=state.completion_tokens + int(completion_tokens),
        tree_tokens=state.tree_tokens + int(metrics.get("train/tree_tokens", 0)),
        trained_tokens=state.trained_tokens + batch.trained_tokens,
        flat_iterations=0 if batch.rows else state.flat_iterations + 1,
        refill=batch.refill or state.refill,
        pending=metrics,
    )


def _validate(run: Run) -> dict[str, float]:
    with run.display.stage("validation", total=len(run.validation_examples)):
        run.sampler.update_weights(run.policy)
        if run.acting is not None:
            return validate_episodes(
                run.validation_examples,
                policy=run.policy,
                sampler=run.sampler,
                domain=run.domain,
                acting=run.acting,
                config=run.config,
                processes=run.processes,
                on_episode_done=run.display.step,
            )
        return validate(
            run.validation_examples,
            policy=run.policy,
            sampler=run.shared_sampler,
            domain=run.domain,
            config=run.config,
            on_prompt_done=run.display.step,
        )


def _keep_best(run: Run, metrics: dict[str, float]) -> None:
    """Remember a validation, and keep the model where it is the best so far."""
    reward = metrics["validation/reward"]
    if run.state.iteration == 0:
        run.state = replace(run.state, initial_reward=reward)
    if run.state.best_reward is not None and reward <= run.state.best_reward:
        run.state = replace(run.state, validations_without_gain=run.state.validations_without_gain + 1)
        return
    run.state = replace(run.state, best_reward=reward, best_iteration=run.state.iteration, validations_without_gain=0)
    save_best(
        run.config.output,
        run.state.iteration,
        metrics,
        policy=run.policy,
        domain=run.domain,
        processes=run.processes,
    )


_OTHERS: Mapping[str, str] = MappingProxyType(
    {
        "srl": "steps with `srl-swe data profile`",
        "rlvr": "instances, such as the policy resolves now and then, or give --trajectories and --similarity-weight",
    }
)
"""What an iteration without signal could have sampled instead, by method."""


def _no_signal(config: TrainConfig, state: TrainState) -> str:
    return (
        f"no group carried signal in the last {state.flat_iterations} iterations (up to {state.iteration}); the run is "
        f"saved in {config.output / 'last'}. groups/flat and groups/all_malformed in metrics.jsonl say why. All "
        "malformed: warm up by SFT, or raise --max-completion-tokens. Flat: raise --temperature or "
        f"--rollouts-per-prompt, or choose other {_OTHERS[config.method]}. To go on all the same, raise "
        "--max-flat-iterations."
    )
