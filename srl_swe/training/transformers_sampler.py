"""Sampling with plain transformers models, in this process.

The engine prefills each prompt once for its group: rollouts of a prompt append their keys and values behind the
prompt's, and a mask lets each see only its own. Prompts enter as room appears and leave when their rollouts have ended;
no token is spent on padding.
N = rollouts decoded now, n = those of one prompt, C = cached columns of one prompt, V = vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from srl_swe.errors import SamplerError
from srl_swe.training.attend import attend, fold, unfold
from srl_swe.training.head import output_logits
from srl_swe.training.layer_masks import LayerMask, layer_mask, unpadded
from srl_swe.training.policy import Policy
from srl_swe.training.samplers import SampledCompletion, make_completion, prompt_seeds

ATTENTION_NAME = "srl_swe_shared_prompt"


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
        active: list[_Slot] = []
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

    def _has_room(self, active: Sequence["_Slot"], capacity: int) -> bool:
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
    ) -> "_Slot":
        config = self._model.config.get_text_config()
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        capacity = len(prompt) + num_drafts * max_completion_tokens
        shape = (config.num_hidden_layers, 2, heads, capacity, width)
        cache = torch.empty(shape, dtype=self._model.dtype, device=self._model.device)
        drafts = [_Draft() for _ in range(num_drafts)]
        slot = _Slot(index=index, prompt=prompt, cache=cache, uniforms=uniforms, drafts=drafts)
        ids = torch.tensor([list(prompt)], device=self._model.device)
        hidden = self._model.base_model(
            input_ids=ids,
            attention_mask=unpadded(len(prompt), ids.device),
            position_ids=torch.arange(len(prompt), device=ids.device)[None],
            use_cache=False,
            srl_swe_slots=[slot],
        ).last_hidden_state
        slot.columns = len(prompt)
        logits_V = output_logits(self._model, hidden[0, -1:])
        logits = logits_V.expand(num_drafts, -1)
        self._extend([slot], logits, temperature)
        return slot

    def _decode(self, active: Sequence["_Slot"], temperature: float) -> None:
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

    def _extend(self, active: Sequence["_Slot"], logits_NV: Tensor, temperature: float) -> None:
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
        active: list["_Slot"],
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


@dataclass(slots=True)
class _Draft:
    """A completion in the making."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Slot:
    """A prompt being decoded: its cache, and its rollouts."""

    index: int
    prompt: Sequence[int]
    cache: Tensor
    """[layers, 2, key-value heads, capacity, head width]: the prompt's columns, then n per decoded token."""
    uniforms: Tensor
    drafts: list[_Draft]
    live: list[int] = field(init=False)
    """Rollouts that have not ended."""
    length: int = 0
    """Tokens drawn by each live rollout."""
    columns: int = 0
    mask: Tensor | None = None
    """Additive, [rollouts of the slot, capacity]; None while the prompt is prefilled."""
    positions: Tensor | None = None
    """Of each column's token in its row."""
    seen: dict[LayerMask | None, Tensor] = field(default_factory=dict)
    """The mask of the step at hand in the layers of each kind, once for each query head of a key-value head."""

    def __post_init__(self) -> None:
        self.live = list(range(len(self.drafts)))

    @property
    def capacity(self) -> int:
        return self.cache.shape[3]

    def admit_columns(self, device: torch.device, dtype: torch.dtype) -> None:
        """Let each live rollout see the column that its last token is about to fill."""
        if self.mask is None:
            self.mask = torch.full((len(self.drafts), self.capacity), -torch.inf, dtype=dtype, device=device)
            self.mask[:, : len(self.prompt)] = 0
            self.positions = torch.arange(self.capacity, device=device)
        assert self.positions is not None
        added = torch.arange(len(self.live), device=device) + self.columns
        self.mask[torch.tensor(self.live, device=device), added] = 0
        self.positions[added] = len(self.prompt) + self.length - 1
        self.seen.clear()

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: LayerMask,
        *,
        scaling: float | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Store keys and values [heads, n, width] behind the cached columns and attend to what is visible."""
        groups = key.shape[0]
        end = self.columns + key.shape[1]
        self.cache[layer, 0, :, self.columns : end] = key
        self.cache[layer, 1, :, self.columns : end] = value
        heads = query.shape[0]
        repeats = heads // groups
        if self.mask is None and mask.is_causal and softcap is None and sinks is None:
            return functional.scaled_dot_product_attention(
                query[None],
                key[None].repeat_interleave(repeats, 1),
                value[None].repeat_interleave(repeats, 1),
                is_causal=True,
                scale=scaling,
            )[0]
        bias = self._bias(mask, end, repeats, query)
        keys, values = self.cache[layer, :, None, :, :end]
        folded = fold(query[None], groups)
        return unfold(attend(folded, keys, values, bias, scaling=scaling, softcap=softcap, sinks=sinks), heads)[0]

    def _bias(self, mask: LayerMask, end: int, repeats: int, query: Tensor) -> Tensor:
        """Return what is added to the scores of the step's queries in layers of this kind."""
        if self.mask is None:
            places = torch.arange(end, device=query.device)
            seen = mask.allows(places[:, None], places) & (places <= places[:, None])
            return torch.zeros_like(seen, dtype=query.dtype).masked_fill_(~seen, -torch.inf).repeat(repeats, 1)
        kind = None if mask.is_causal else mask
        if kind not in self.seen:
            assert self.positions is not None
            bias = self.mask[self.live, :end]
            if kind is not None:
                place = torch.full((), len(self.prompt) + self.length - 1, device=query.device)
                bias = bias.masked_fill(~kind.allows(place, self.positions[:end]), -torch.inf)
            self.seen[kind] = bias.repeat(repeats, 1)
        return self.seen[kind]


def _shared_prompt_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: LayerMask,
    *,
    srl_swe_slots: list[_Slot],
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attend slot by slot; the batch is one row of all slots' tokens."""
    sizes = [len(slot.live) for slot in srl_swe_slots] if srl_swe_slots[0].mask is not None else [query.shape[2]]
    tensors = (torch.split(tensor[0], sizes, 1) for tensor in (query, key, value))
    parts = zip(srl_swe_slots, *tensors, strict=True)
    outs = [
        slot.attend(module.layer_idx, q, k, v, attention_mask, scaling=scaling, softcap=softcap, sinks=s_aux)
        for slot, q, k, v in parts
    ]
    return torch.cat(outs, dim=1).transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(ATTENTION_NAME, _shared_prompt_attention)
AttentionMaskInterface.register(ATTENTION_NAME, layer_mask)
