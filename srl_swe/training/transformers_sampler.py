"""Sampling with plain transformers models, in this process.

The engine prefills each prompt once for its group: rollouts of a prompt append their keys and values behind the
prompt's, and a mask lets each see only its own. Prompts enter as room appears and leave when their rollouts have ended;
no token is spent on padding.
N = rollouts decoded now, n = those of one prompt, C = cached columns of one prompt, V = vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from srl_swe.errors import SamplerError
from srl_swe.training.head import output_logits
from srl_swe.training.layer_masks import unpadded
from srl_swe.training.policy import Policy
from srl_swe.training.samplers import SampledCompletion, make_completion, prompt_seeds
from srl_swe.training.shared_prompt import ATTENTION_NAME, Draft, Slot


class TransformersSampler:
    """Samples with a copy of the policy's model in its compute dtype."""

    def __init__(self, policy: Policy, *, cached_tokens: int, concurrent_rollouts: int) -> None:
        self._policy = policy
        self._model = policy.copy_model()
        self._model.config._attn_implementation = ATTENTION_NAME
        self._cached_tokens = cached_tokens
        self._concurrent_rollouts = concurrent_rollouts

    @torch.no_grad()
    def update_weights(self, policy: Policy) -> None:
        """Copy the policy's weights."""
        mine = dict(self._model.named_parameters())
        for name, tensor in policy.weights():
            if name in mine:  # buffers stay
                mine[name].copy_(tensor)

    @torch.no_grad()
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

        The random numbers of a prompt depend on the seed and on its place in `prompts` alone, or on its own seed.

        Raises:
            SamplerError: a prompt does not fit into the cache, or logits are not finite.
        """
        num_drafts = 1 if temperature == 0 else num_rollouts
        finished: list[list[SampledCompletion]] = [[] for _ in prompts]
        seeds = prompt_seeds(seed, len(prompts))
        waiting = list(range(len(prompts)))[::-1]
        active: list[Slot] = []
        while waiting or active:
            while waiting and self._has_room(active, len(prompts[waiting[-1]]) + num_drafts * max_completion_tokens):
                index = waiting.pop()
                uniforms = _uniforms(seeds[index], num_drafts, max_completion_tokens)
                active.append(
                    self._prefill(index, prompts[index], num_drafts, max_completion_tokens, uniforms, temperature)
                )
                self._retire(active, finished, max_completion_tokens, on_prompt_done)
            if not active:
                if waiting:
                    size = len(prompts[waiting[-1]])
                    raise SamplerError(
                        f"prompt {waiting[-1]} ({size} tokens, {num_drafts} rollouts of {max_completion_tokens}) does "
                        f"not fit into cached_tokens = {self._cached_tokens}"
                    )
                break
            self._decode(active, temperature)
            self._retire(active, finished, max_completion_tokens, on_prompt_done)
        return [drafts * (num_rollouts // len(drafts)) for drafts in finished]

    def _has_room(self, active: Sequence["Slot"], capacity: int) -> bool:
        rollouts = sum(len(slot.live) for slot in active)
        cached = sum(slot.capacity for slot in active)
        # An empty engine takes any group that the cache can hold, whatever its size.
        enough = not active or rollouts + len(active[-1].drafts) <= self._concurrent_rollouts
        return enough and cached + capacity <= self._cached_tokens

    def _prefill(
        self,
        index: int,
        prompt: Sequence[int],
        num_drafts: int,
        max_completion_tokens: int,
        uniforms: Tensor,
        temperature: float,
    ) -> "Slot":
        capacity = len(prompt) + num_drafts * max_completion_tokens
        drafts = [Draft() for _ in range(num_drafts)]
        slot = Slot(index=index, prompt=prompt, capacity=capacity, uniforms=uniforms, drafts=drafts)
        ids = torch.tensor([list(prompt)], device=self._model.device)
        hidden = self._model.base_model(
            input_ids=ids,
            attention_mask=unpadded(len(prompt), ids.device),
            position_ids=torch.arange(len(prompt), device=ids.device)[None],
            use_cache=False,
            srl_swe_slots=[slot],
        ).last_hidden_state
        slot.columns = len(prompt)
        slot.seen.clear()
        logits_V = output_logits(self._model, hidden[0, -1:])
        logits = logits_V.expand(num_drafts, -1)
        self._extend([slot], logits, temperature)
        return slot

    def _decode(self, active: Sequence["Slot"], temperature: float) -> None:
        """Feed each live rollout's last token and draw the next."""
        device = self._model.device
        tokens = [slot.drafts[i].ids[-1] for slot in active for i in slot.live]
        places = [len(slot.prompt) + slot.length - 1 for slot in active for _ in slot.live]
        for slot in active:
            slot.admit_columns(device, self._model.dtype)
        hidden = self._model.base_model(
            input_ids=torch.tensor([tokens], device=device),
            attention_mask=unpadded(len(tokens), device),
            position_ids=torch.tensor([places], device=device),
            use_cache=False,
            srl_swe_slots=list(active),
        ).last_hidden_state
        for slot in active:
            slot.columns += len(slot.live)
        logits_NV = output_logits(self._model, hidden[0])
        self._extend(active, logits_NV, temperature)

    def _extend(self, active: Sequence["Slot"], logits_NV: Tensor, temperature: float) -> None:
        uniforms = torch.cat([slot.uniforms[slot.live, slot.length] for slot in active])
        chosen, logprobs = draw(logits_NV, uniforms.to(logits_NV.device), temperature)
        pairs = iter(zip(chosen.tolist(), logprobs.tolist(), strict=True))
        for slot in active:
            for i in slot.live:
                token, logprob = next(pairs)
                slot.drafts[i].ids.append(token)
                slot.drafts[i].logprobs.append(logprob)
            slot.length += 1

    def _retire(
        self,
        active: list["Slot"],
        finished: list[list[SampledCompletion]],
        max_completion_tokens: int,
        on_prompt_done: Callable[[], None] | None,
    ) -> None:
        stop_ids = self._policy.stop_ids
        for slot in list(active):
            at_limit = slot.length >= max_completion_tokens
            slot.live = [] if at_limit else [i for i in slot.live if slot.drafts[i].ids[-1] not in stop_ids]
            if slot.live:
                continue
            active.remove(slot)
            finished[slot.index] = [make_completion(draft.ids, draft.logprobs, self._policy) for draft in slot.drafts]
            if on_prompt_done:
                on_prompt_done()


def draw(logits_NV: Tensor, uniforms_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return tokens and their log-probabilities, by inversion of the distribution at float64 uniforms.

    Raises:
        SamplerError: logits are not finite.
    """
    if not torch.isfinite(logits_NV).all():
        raise SamplerError("the model's logits are not finite; its weights are broken or training diverged")
    logprobs_NV = (logits_NV / temperature if temperature else logits_NV).log_softmax(-1)
    if temperature == 0:
        chosen_N1 = logprobs_NV.argmax(-1, keepdim=True)
    else:
        cumulative_NV = logprobs_NV.exp().cumsum(-1, dtype=torch.float64)
        # Below 1 by more than rounding, so that the product stays below the last sum.
        threshold_N1 = uniforms_N[:, None].clamp(max=1 - 1e-12) * cumulative_NV[:, -1:]
        chosen_N1 = torch.searchsorted(cumulative_NV, threshold_N1, right=True)
    return chosen_N1.squeeze(1), logprobs_NV.gather(1, chosen_N1).squeeze(1)


def _uniforms(seed: int, num_drafts: int, max_completion_tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_drafts, max_completion_tokens, generator=generator, dtype=torch.float64)
