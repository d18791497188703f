"""The training loop: collect a batch, update, validate, checkpoint. One process, one device.

Leaves out how each of these is done. The same loop serves SFT and SRL; only what they collect differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from srl_swe.training.batches import Batch
from srl_swe.training.checkpoint import TrainState, save_best, save_checkpoint
from srl_swe.training.config import TrainConfig
from srl_swe.training.domain import Domain
from srl_swe.training.rollouts import collect_groups
from srl_swe.training.run import Run, open_run
from srl_swe.training.sft import collect_targets
from srl_swe.training.update import update_policy
from srl_swe.training.validation import validate
from srl_swe.types import StepExample


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a finished run leaves."""

    output: Path
    iterations: int
    initial_reward: float | None
    """Validation reward before training; None without validation examples."""
    best_reward: float | None
    best_iteration: int | None
    best_model: Path | None
    """Folder of the best model on validation."""
    last_model: Path


def train(
    config: TrainConfig,
    train_examples: Sequence[StepExample],
    validation_examples: Sequence[StepExample],
    domain: Domain,
    *,
    selection: Mapping[str, object] = MappingProxyType({}),
) -> TrainResult:
    """Train, or continue the run that lies in `config.output`; return when all iterations are done.

    `selection` says by what rule the training examples were chosen, as JSON values: written down with the options,
    and a resumed run must have the same.

    Raises:
        ConfigError: the output folder holds something else, or a run with other options or data.
        DataError: no usable step examples.
        ModelError: the model folder lacks something.
        CheckpointError: a checkpoint cannot be written or read.
        DivergenceError: a loss or gradient is not finite.
        KeyboardInterrupt: stopped by the user; the same command continues from the last checkpoint.
    """
    with open_run(config, train_examples, validation_examples, domain, selection=selection) as run:
        if run.state.iteration == 0:
            metrics = _validate(run)
            run.report(metrics)
        for iteration in range(run.state.iteration + 1, run.num_iterations + 1):
            batch = _collect(run)
            metrics = dict(batch.metrics)
            if batch.rows:
                with run.display.stage("training"):
                    metrics |= update_policy(
                        run.policy,
                        batch,
                        optimizer=run.optimizer,
                        accelerator=run.accelerator,
                        learning_rate=config.learning_rate_at(iteration, run.num_iterations),
                        config=config,
                    )
            run.state = _advanced(run.state, batch, metrics)
            last = iteration == run.num_iterations
            if last or iteration % config.validate_every == 0:
                metrics |= _validate(run)
            run.report(metrics)
            if last or iteration % config.checkpoint_every == 0:
                save_checkpoint(
                    config.output,
                    run.state,
                    policy=run.policy,
                    domain=domain,
                    optimizer=run.optimizer,
                    keep=config.keep_checkpoints,
                )
        state = run.state
    return TrainResult(
        output=config.output,
        iterations=state.iteration,
        initial_reward=state.initial_reward,
        best_reward=state.best_reward,
        best_iteration=state.best_iteration,
        best_model=config.output / "best" if state.best_iteration is not None else None,
        last_model=config.output / "last",
    )


def _collect(run: Run) -> Batch:
    with run.display.stage("sampling" if run.config.method == "srl" else "collecting"):
        if run.config.method == "sft":
            return collect_targets(
                run.train_examples, drawn=run.state.drawn, policy=run.policy, domain=run.domain, config=run.config
            )
        run.sampler.update_weights(run.policy)
        return collect_groups(
            run.train_examples,
            drawn=run.state.drawn,
            policy=run.policy,
            sampler=run.sampler,
            domain=run.domain,
            config=run.config,
            on_sampling=run.display.expect,
            on_prompt_done=run.display.step,
        )


def _advanced(state: TrainState, batch: Batch, metrics: dict[str, float]) -> TrainState:
    completion_tokens = sum(value for key, value in metrics.items() if key.endswith("/completion_tokens"))
    return replace(
        state,
        iteration=state.iteration + 1,
        drawn=state.drawn + batch.drawn,
        completion_tokens=state.completion_tokens + int(completion_tokens),
        tree_tokens=state.tree_tokens + int(metrics.get("train/tree_tokens", 0)),
    )


def _validate(run: Run) -> dict[str, float]:
    """Validate, and keep the model where it is the best so far; empty without validation examples."""
    if not run.validation_examples:
        return {}
    with run.display.stage("validation", total=len(run.validation_examples)):
        run.sampler.update_weights(run.policy)
        metrics = validate(
            run.validation_examples,
            policy=run.policy,
            sampler=run.sampler,
            domain=run.domain,
            config=run.config,
            on_prompt_done=run.display.step,
        )
    reward = metrics["validation/reward"]
    if run.state.iteration == 0:
        run.state = replace(run.state, initial_reward=reward)
    if run.state.best_reward is None or reward > run.state.best_reward:
        run.state = replace(run.state, best_reward=reward, best_iteration=run.state.iteration)
        save_best(run.config.output, run.state.iteration, metrics, policy=run.policy, domain=run.domain)
    return metrics
