"""Sampling from a vLLM server by its OpenAI-compatible API, its weights synced through a folder that both sides see.

New weights need endpoints that vLLM has in its development mode only (VLLM_SERVER_DEV_MODE=1): whoever reaches the
server can then do anything with it. Leaves out starting a server.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

from srl_swe.closing import Closing
from srl_swe.errors import SamplerError, SamplerLostError
from srl_swe.training.engine_folder import EngineFolder, vocabulary_size
from srl_swe.training.policy import Policy
from srl_swe.training.processes import Processes
from srl_swe.training.samplers import SampledCompletion, make_completion, mix_seed, prompt_seeds

TIMEOUT_S = 1800.0
"""Longest wait for one completion or one sync."""

HOW_TO_START = (
    "VLLM_SERVER_DEV_MODE=1 python -m vllm.entrypoints.openai.api_server --model {folder} --skip-tokenizer-init "
    "--logprobs-mode processed_logprobs (on a CPU also --no-enable-chunked-prefill), where nobody else reaches it"
)


class VLLMServerSampler(Closing):
    """Samples from the server at a URL; its key, where it has one, is read from VLLM_API_KEY."""

    def __init__(
        self,
        policy: Policy,
        *,
        url: str,
        folder: Path,
        max_row_tokens: int,
        concurrent_rollouts: int,
        processes: Processes | None = None,
    ) -> None:
        """Find out what the server is, and hand it the policy. Of several `processes`, the first hands over.

        Raises:
            SamplerError: the server has another model or vocabulary, or cannot take over weights.
            SamplerLostError: no server answers.
        """
        self._url = url.rstrip("/")
        self._policy = policy
        self._concurrent_rollouts = concurrent_rollouts
        self._processes = processes or Processes()
        self._folder = EngineFolder(folder, policy, self._processes)
        self._how_to_start = HOW_TO_START.format(folder=self._folder.path)
        self._processes.together(lambda: self._check_server(max_row_tokens))
        self._processes.together(self._check_vocabulary)
        self._hand_over()
        if self._processes.together(self._is_blank):
            self.update_weights(policy)
            if not self._processes.together(self._is_blank):
                return
        raise SamplerError(
            f"the server at {self._url} does not sample from the weights that it was given, as vLLM 0.32 does not on a "
            f"CPU where embeddings are tied. It is started by {self._how_to_start}."
        )

    def update_weights(self, policy: Policy) -> None:
        """Hand over the weights, and let the server forget the keys and values of the earlier ones.

        Raises:
            SamplerError: the policy has other shapes than the one at the start, or the server refuses.
            SamplerLostError: the server is gone.
        """
        self._folder.write(policy)
        self._hand_over()
        self._policy = policy

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

        Seeds are as in the protocol; but the last digits of the logits depend on what the server decodes beside.

        Raises:
            SamplerError: the server refuses a prompt, or gives log-probabilities of another temperature.
            SamplerLostError: the server is gone.
        """
        if temperature not in (0, 1) and self._logprobs_mode != "processed_logprobs":
            raise SamplerError(
                f"the server at {self._url} gives log-probabilities at temperature 1 ({self._logprobs_mode}), sampling "
                f"is at {temperature}: start it with --logprobs-mode processed_logprobs"
            )
        num_drafts = 1 if temperature == 0 else num_rollouts
        drafts: list[list[SampledCompletion | None]] = [[None] * num_drafts for _ in prompts]
        seeds = prompt_seeds(seed, len(prompts))
        common = {
            "model": self._model,
            "max_tokens": max_completion_tokens,
            "temperature": temperature,
            "stop_token_ids": sorted(self._policy.stop_ids),
            "ignore_eos": True,
            "logprobs": 0,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        pool = ThreadPoolExecutor(self._concurrent_rollouts, thread_name_prefix="completions")
        try:
            calls = {
                pool.submit(
                    self._post,
                    "/v1/completions",
                    {**common, "prompt": list(prompt), "seed": mix_seed(seeds[place], draft)},
                ): (place, draft)
                for place, prompt in enumerate(prompts)
                for draft in range(num_drafts)
            }
            for call in as_completed(calls):
                place, draft = calls[call]
                drafts[place][draft] = self._take(call.result())
                if on_prompt_done and None not in drafts[place]:
                    on_prompt_done()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # What the server has begun would keep the threads, and with them this process, waiting.
            with suppress(SamplerError):
                self._post("/abort_requests", {})
            raise
        pool.shutdown()
        return [[done for done in group if done] * (num_rollouts // num_drafts) for group in drafts]

    def close(self) -> None:
        """Leave the server and the folder, with which a later run goes on."""

    def _check_server(self, max_row_tokens: int) -> None:
        self._model = self._get("/v1/models")["data"][0]["id"]
        try:
            config = self._get("/server_info?config_format=json")["vllm_config"]
        except _NotFoundError as error:
            raise SamplerError(
                f"the server at {self._url} has no endpoints for new weights: it is no vLLM of 0.32 or later, or not "
                f"in development mode. It is started by {self._how_to_start}."
            ) from error
        self._logprobs_mode = config["model_config"]["logprobs_mode"]
        longest = config["model_config"]["max_model_len"]
        if longest < max_row_tokens:
            raise SamplerError(
                f"the server at {self._url} takes rows of {longest} tokens, a prompt with its completion may have "
                f"{max_row_tokens}: start it with --max-model-len {max_row_tokens}, or lower --max-prompt-tokens"
            )
        on_cpu = str(config["device_config"]["device"]) in ("cpu", "auto")
        if on_cpu and config["scheduler_config"]["enable_chunked_prefill"]:
            raise SamplerError(
                f"the server at {self._url} runs on a CPU and prefills in parts, and vLLM 0.32 dies there of prompts "
                "with a seed: start it with --no-enable-chunked-prefill"
            )

    def _check_vocabulary(self) -> None:
        """The server must take the policy's last token and refuse the one after it."""
        size = vocabulary_size(self._policy)
        known = []
        for token in (size - 1, size):
            try:
                # Without a tokenizer, the server checks biases against the vocabulary but prompts not.
                body = {"model": self._model, "prompt": [0], "max_tokens": 1, "logit_bias": {str(token): 0.0}}
                self._post("/v1/completions", body)
                known.append(True)
            except SamplerLostError:
                raise
            except SamplerError:
                known.append(False)
        if known != [True, False]:
            raise SamplerError(
                f"the vocabularies of policy and sampler differ: the policy has {size} tokens, the model {self._model} "
                f"at {self._url} {'more' if known[0] else 'fewer'}. Serve the policy's own: {self._how_to_start}."
            )

    def _hand_over(self) -> None:
        self._processes.together(self._take_over if self._processes.first else lambda: None)

    def _take_over(self) -> None:
        try:
            kwargs = {"weights_path": str(self._folder.path)}
            self._post("/collective_rpc", {"method": "reload_weights", "kwargs": kwargs})
            emptied = self._post("/reset_prefix_cache", {})["success"]
        except SamplerLostError as error:
            raise SamplerLostError(
                f"{error} (taking over weights; does the server see {self._folder.path}?)"
            ) from error
        if not emptied:
            raise SamplerError(f"the server at {self._url} did not empty its prefix cache; is somebody else using it?")

    def _is_blank(self) -> bool:
        [[probe]] = self.sample([[0]], num_rollouts=1, max_completion_tokens=1, temperature=0, seed=0)
        return self._folder.is_blank(probe)

    def _take(self, answer: Mapping[str, Any]) -> SampledCompletion:
        choice = answer["choices"][0]
        if choice["finish_reason"] not in ("stop", "length"):
            raise SamplerError(f"vLLM ended a rollout by {choice['finish_reason']!r}, expected stop or length")
        return make_completion(choice["token_ids"], choice["logprobs"]["token_logprobs"], self._policy)

    def _get(self, path: str) -> Any:
        return self._ask(urllib.request.Request(self._url + path))

    def _post(self, path: str, body: Mapping[str, object]) -> Any:
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        return self._ask(request)

    def _ask(self, request: urllib.request.Request) -> Any:
        key = os.environ.get("VLLM_API_KEY")
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            reason = f"{request.selector} at {self._url} answered {error.code}: {error.read().decode()[:500]}"
            if error.code == 404:
                raise _NotFoundError(reason) from error
            raise (SamplerLostError if error.code >= 500 else SamplerError)(reason) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SamplerLostError(
                f"the vLLM server at {self._url} does not answer: {error}. It is started by {self._how_to_start}."
            ) from error


class _NotFoundError(SamplerError):
    """The server knows no such path."""
