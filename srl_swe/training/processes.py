"""One run in several processes: who does what, and how all come to know the same.

Every process has the same options, data and state, so each decision is made alike in all of them. They share out
the work (prompts to sample, packs to train on) and the first one alone writes files. Started by `accelerate launch`.
Leaves out how gradients and shards travel, which is Accelerate's.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor

from srl_swe.errors import SamplerLostError, SrlSweError
from srl_swe.training.policy import Policy
from srl_swe.training.samplers import SampledCompletion, Sampler, prompt_seeds
from srl_swe.training.weights import whole
from srl_swe.training.zero import ZeroEngine

S = TypeVar("S")
T = TypeVar("T")

_SETTLING_S = 1.0


class Processes:
    """The processes of a run, seen from one of them."""

    def __init__(self, accelerator: Any = None) -> None:
        """None = this process alone, for what needs no training."""
        self.accelerator = accelerator
        self.count: int = accelerator.num_processes if accelerator else 1
        self.index: int = accelerator.process_index if accelerator else 0
        self.first = self.index == 0
        self.zero: ZeroEngine | None = None
        """Where DeepSpeed shares the work."""

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part: every `count`-th item."""
        return items[self.index :: self.count]

    def gather(self, mine: Sequence[T]) -> list[T]:
        """Put the parts of `share` together again, in order, in every process."""
        if self.count == 1:
            return list(mine)
        parts: list[list[T]] = gather_object([list(mine)])
        items: list[T] = []
        for place in range(max(map(len, parts))):
            items += [part[place] for part in parts if place < len(part)]
        return items

    def split(
        self,
        items: Sequence[S],
        work: Callable[[Sequence[S]], Sequence[T]],
        *,
        on_done_elsewhere: Callable[[S], None] | None = None,
    ) -> list[T]:
        """Have each process work on its share; return what came of each item, in order, in every process.

        `on_done_elsewhere` is told each item that another process has worked on. Raises what `together` raises.
        """
        mine = self.share(items)
        found = self.gather(self.together(lambda: work(mine)))
        if on_done_elsewhere:
            for place, item in enumerate(items):
                if place % self.count != self.index:
                    on_done_elsewhere(item)
        return found

    def any(self, here: bool) -> bool:
        """Whether it holds in one of the processes."""
        return here if self.count == 1 else any(gather_object([here]))

    def wait(self) -> None:
        """Return when every process is here."""
        if self.count > 1:
            self.accelerator.wait_for_everyone()

    def together(self, work: Callable[[], T]) -> T:
        """Do this process's part of something that may fail in one of them, and then fails in all, by the same error.

        All then leave alike, and can still save the run. The work itself must wait for no other process.

        Raises:
            SrlSweError: in one of the processes. A lost sampling engine goes before all else, as the run is saved then.
        """
        if self.count == 1:
            return work()
        failed: SrlSweError | None = None
        try:
            found = work()
        except SrlSweError as error:
            failed = error
        everywhere: list[tuple[type[SrlSweError], str] | None] = gather_object([failed and (type(failed), str(failed))])
        failures = [failure for failure in everywhere if failure]
        if failures:
            kind, text = next((one for one in failures if issubclass(one[0], SamplerLostError)), failures[0])
            raise kind(text) from failed
        return found

    def part(self) -> None:
        """End together. Gloo's threads need the interpreter to let go of the last tensors, and would not get it while
        the groups are torn down: the two would wait for each other for ever."""
        if self.count > 1:
            self.wait()
            time.sleep(_SETTLING_S)

    def wrap(self, policy: Policy, optimizer: torch.optim.Optimizer) -> Any:
        """Let Accelerate wrap the forward pass (DDP, FSDP2, DeepSpeed) and return the optimizer that belongs to it."""
        by_deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        if self.count == 1 and not by_deepspeed:
            return optimizer
        policy.scorer, optimizer = self.accelerator.prepare(policy.scorer, optimizer)
        if by_deepspeed:
            self.zero = ZeroEngine(policy.scorer)
        return optimizer

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a loss to those of the update, which ends with the last."""
        if self.zero:
            self.zero.backward(loss, last=last)
        else:
            self.accelerator.backward(loss)

    def clip_gradients(self, policy: Policy, max_norm: float) -> Tensor:
        """Scale the update's gradient down to a norm, and return the norm that it had."""
        if self.zero:  # clips as it steps
            return self.zero.gradient_norm()
        norm: Tensor = whole(self.accelerator.clip_grad_norm_(policy.scorer.parameters(), max_norm))
        return norm

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Change the weights."""
        if self.zero:
            self.zero.step()
        else:
            optimizer.step()

    def without_sync(self, policy: Policy, *, last: bool) -> AbstractContextManager[Any]:
        """Keep gradients to oneself in all but the last backward pass of an update.

        Not where weights are sharded: what a process keeps to itself are whole gradients, as large as the model.
        """
        share_now = last or self.count == 1 or self.accelerator.is_fsdp2 or self.zero
        return nullcontext() if share_now else self.accelerator.no_sync(policy.scorer)


class SplitSampler:
    """Shares out the prompts of a call, so that each process samples a part and all know everything."""

    def __init__(self, sampler: Sampler, processes: Processes) -> None:
        self._sampler = sampler
        self._processes = processes

    def update_weights(self, policy: Policy) -> None:
        """Sample from the policy as it is now."""
        self._sampler.update_weights(policy)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        num_rollouts: int,
        max_completion_tokens: int,
        temperature: float,
        seed: int | Sequence[int],
        on_prompt_done: Callable[[], None] | None = None,
    ) -> list[list[SampledCompletion]]:
        """Sample as the sampler does, with the same random numbers for a prompt whoever samples it."""

        def sample(mine: Sequence[tuple[Sequence[int], int]]) -> list[list[SampledCompletion]]:
            return self._sampler.sample(
                [prompt for prompt, _ in mine],
                num_rollouts=num_rollouts,
                max_completion_tokens=max_completion_tokens,
                temperature=temperature,
                seed=[own for _, own in mine],
                on_prompt_done=on_prompt_done,
            )

        seeds = prompt_seeds(seed, len(prompts))
        return self._processes.split(
            list(zip(prompts, seeds, strict=True)),
            sample,
            on_done_elsewhere=(lambda _: on_prompt_done()) if on_prompt_done else None,
        )


@contextmanager
def first_process_first(processes: Processes) -> Iterator[bool]:
    """Let the first process alone do the block; the others go on when it is done. Yields whether this is it."""
    if processes.first:
        yield True
        processes.wait()
    else:
        processes.wait()
        yield False
