"""Sampling with vLLM on this machine: an engine in processes of its own, given the policy's weights as a file.

Leaves out vLLM servers. vLLM is imported when an engine is started, not before.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from srl_swe.closing import Closing
from srl_swe.errors import MissingExtraError, SamplerError, SamplerLostError
from srl_swe.training.engine_folder import EngineFolder
from srl_swe.training.guardian import Guardian
from srl_swe.training.policy import Policy
from srl_swe.training.processes import Processes
from srl_swe.training.samplers import SampledCompletion, make_completion, mix_seed, prompt_seeds
from srl_swe.training.watched_calls import ProcessEndedError, WatchedCalls

ENVIRONMENT = {
    # An engine forked after torch's threads have run would hang.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What the engine is started with, unless the variable is set already."""

GROUP_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What `accelerate launch` tells a process of its group, beside `TORCHELASTIC_…`."""

PREFILL_TOKENS = 8192
"""Tokens of one forward pass of the engine, or one prompt where that is longer."""

SHUTDOWN_S = 20.0
"""How long the engine's processes may take to end by themselves."""


class VLLMSampler(Closing):
    """Samples with a vLLM engine; rollouts of a prompt, and prompts that begin alike, share keys and values."""

    def __init__(
        self,
        policy: Policy,
        *,
        folder: Path,
        max_row_tokens: int,
        cached_tokens: int,
        concurrent_rollouts: int,
        prefix_caching: bool = True,
        processes: Processes | None = None,
    ) -> None:
        """Start an engine; each of several `processes` starts one, on its own device.

        `folder` is where weights are handed over, removed at the end; `max_row_tokens` bounds a prompt together with
        its completion.

        Raises:
            MissingExtraError: vLLM is not installed.
            SamplerError: the engine does not start.
        """
        _require_vllm()
        self.prompt_tokens = self.cached_prompt_tokens = 0
        self._policy = policy
        self._processes = processes or Processes()
        self._folder = EngineFolder(folder, policy, self._processes)
        self._engine: Any = None
        self._num_requests = 0
        on_cpu = policy.device.type == "cpu"
        options = {
            "model": str(self._folder.path),
            "skip_tokenizer_init": True,
            "dtype": str(policy.compute_dtype).removeprefix("torch."),
            "max_model_len": max_row_tokens,
            "max_num_seqs": concurrent_rollouts,
            "kv_cache_memory_bytes": cached_tokens * _bytes_per_cached_token(policy),
            # The cache's size is given. A larger share would refuse to start where the policy lies on the same GPU.
            "gpu_memory_utilization": 0.01,
            "enable_prefix_caching": prefix_caching,
            "enforce_eager": on_cpu,
            # On a CPU, vLLM 0.32 dies of a seeded prompt that it prefills in parts.
            "enable_chunked_prefill": not on_cpu,
            "max_num_batched_tokens": max(max_row_tokens, PREFILL_TOKENS),
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        try:
            self._processes.together(partial(self._open, options, policy.device))
            self.update_weights(policy)
            self._processes.together(self._probe)
        except BaseException:
            self.close()
            raise
        self.prompt_tokens = 0
        """Prompt tokens of all rollouts so far, counted for each rollout."""
        self.cached_prompt_tokens = 0
        """Those whose keys and values were in the cache already."""

    def update_weights(self, policy: Policy) -> None:
        """Hand over the weights, and forget the keys and values of the earlier ones.

        Raises:
            SamplerError: the policy has other shapes, a vocabulary of another size for example, than the engine.
            SamplerLostError: the engine is gone.
        """
        self._folder.write(policy)
        self._processes.together(self._take_over)
        self._policy = policy

    def _open(self, options: Mapping[str, Any], device: torch.device) -> None:
        others = multiprocessing.active_children()
        self._engine = _start(options, device)
        children = [child for child in multiprocessing.active_children() if child not in others]
        self._calls = WatchedCalls(children)
        self._guardian = Guardian([child.pid for child in children if child.pid])

    def _probe(self) -> None:
        [[probe]] = self.sample([[0]], num_rollouts=1, max_completion_tokens=1, temperature=0, seed=0)
        if self._folder.is_blank(probe):
            raise SamplerError("vLLM did not take over the policy's weights: docs/training.md has tested versions")

    def _take_over(self) -> None:
        with _engine_errors("taking over the weights"):
            options = {"weights_path": str(self._folder.path)}
            self._calls.run(partial(self._engine.collective_rpc, "reload_weights", kwargs=options))
        self.forget_prompts()

    def forget_prompts(self) -> None:
        """Empty the prefix cache.

        Raises:
            SamplerError: the engine did not do it.
            SamplerLostError: the engine is gone.
        """
        with _engine_errors("emptying its prefix cache"):
            emptied = self._calls.run(self._engine.reset_prefix_cache)
        if not emptied:
            raise SamplerError("vLLM did not empty its prefix cache: keys and values of old weights would be used")

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
        """Return `num_rollouts` completions per prompt, in order. Temperature 0 = greedy.

        Seeds are as in the protocol; but the last digits of the logits, and so now and then a token, depend on what is
        decoded beside a rollout.

        Raises:
            SamplerError: the engine refuses a prompt.
            SamplerLostError: the engine is gone.
        """
        num_drafts = 1 if temperature == 0 else num_rollouts
        drafts: list[list[SampledCompletion | None]] = [[None] * num_drafts for _ in prompts]
        waiting: dict[str, tuple[int, int]] = {}
        seeds = prompt_seeds(seed, len(prompts))
        for place, prompt in enumerate(prompts):
            for draft in range(num_drafts):
                name = self.add(
                    prompt,
                    max_completion_tokens=max_completion_tokens,
                    temperature=temperature,
                    seed=mix_seed(seeds[place], draft),
                )
                waiting[name] = (place, draft)
        while waiting:
            for name, completion in self.step():
                # A call that ended by an error may have left others behind.
                if name not in waiting:
                    continue
                place, draft = waiting.pop(name)
                drafts[place][draft] = completion
                if on_prompt_done and None not in drafts[place]:
                    on_prompt_done()
        return [[done for done in group if done] * (num_rollouts // num_drafts) for group in drafts]

    def add(self, prompt: Sequence[int], *, max_completion_tokens: int, temperature: float, seed: int) -> str:
        """Begin a completion, as in the protocol of continuous samplers."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=temperature,
            seed=seed,
            max_tokens=max_completion_tokens,
            stop_token_ids=sorted(self._policy.stop_ids),
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        name = str(self._num_requests)
        self._num_requests += 1
        with _engine_errors("sampling"):
            self._calls.run(partial(self._engine.add_request, name, {"prompt_token_ids": list(prompt)}, params))
        return name

    def step(self) -> list[tuple[str, SampledCompletion]]:
        """Go on with all that was begun, as in the protocol of continuous samplers."""
        with _engine_errors("sampling"):
            return [(output.request_id, self._take(output)) for output in self._calls.run(self._engine.step)]

    def close(self) -> None:
        """End the engine and its processes."""
        engine, self._engine = self._engine, None
        if engine is not None:
            self._calls.close()
            engine.engine_core.shutdown(timeout=SHUTDOWN_S)
            self._guardian.close()
        self._folder.remove()

    def _take(self, output: Any) -> SampledCompletion:
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_prompt_tokens += output.num_cached_tokens or 0
        sampled = output.outputs[0]
        if sampled.finish_reason not in ("stop", "length"):
            raise SamplerError(f"vLLM ended a rollout by {sampled.finish_reason!r}, expected stop or length")
        logprobs = [entry[token].logprob for token, entry in zip(sampled.token_ids, sampled.logprobs, strict=True)]
        return make_completion(sampled.token_ids, logprobs, self._policy)


def _require_vllm() -> None:
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"sampling by vLLM needs the extra [vllm], which does not import here: {error}. With a GPU: pip install "
            "'srl-swe[train,vllm]'; without: docs/training.md, or leave out --sampler."
        ) from error


def _start(options: Mapping[str, Any], device: torch.device) -> Any:
    with _environment_kept(), _engine_errors("starting"):
        # Its processes are a group of their own, whatever group this process belongs to.
        for name in [name for name in os.environ if name in GROUP_VARIABLES or name.startswith("TORCHELASTIC_")]:
            del os.environ[name]
        if device.index is not None:  # an engine takes the first GPU that it sees
            visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[device.index] if visible else str(device.index)
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import EngineArgs, LLMEngine

        return LLMEngine.from_engine_args(EngineArgs(**options))


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Undo what is set for the engine's processes (LD_PRELOAD, LOCAL_WORLD_SIZE), which is not meant for other ones."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _engine_errors(what: str) -> Iterator[None]:
    """Turn the engine's errors into ours; vLLM raises plain Exception for what failed in its processes."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except SamplerError:
        raise
    except (EngineDeadError, ProcessEndedError) as error:
        raise SamplerLostError(
            f"the vLLM engine ended while {what} ({error}); its lines above, or the system's log where it was killed "
            "for memory, say why. A smaller --cached-tokens needs less."
        ) from error
    except Exception as error:
        raise SamplerError(f"vLLM failed while {what}: {type(error).__name__}: {error}") from error


def _bytes_per_cached_token(policy: Policy) -> int:
    config = policy.model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * policy.compute_dtype.itemsize)
