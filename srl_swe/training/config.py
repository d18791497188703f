"""Options of a training run, with the paper's recipe as defaults.

"The paper" is arXiv 2510.25992. Leaves out what the options do. The strings under the fields are the help text.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import tyro

from srl_swe.errors import ConfigError
from srl_swe.training import episode_config
from srl_swe.training.episode_config import EpisodeConfig

Loss = Literal["grpo", "dapo", "dr_grpo", "gspo"]
Method = Literal["sft", "srl", "rlvr"]
Schedule = Literal["constant", "cosine"]
Attention = Literal["auto", "sdpa", "flex"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The options whose default depends on the method."""

    prompts_per_iteration: int
    learning_rate: float
    warmup_ratio: float
    schedule: Schedule
    epochs: int


PAPER_RECIPES: Mapping[Method, Recipe] = MappingProxyType(
    {
        "sft": Recipe(prompts_per_iteration=64, learning_rate=5e-6, warmup_ratio=0.3, schedule="cosine", epochs=3),
        "srl": Recipe(prompts_per_iteration=512, learning_rate=5e-7, warmup_ratio=0.0, schedule="constant", epochs=30),
        "rlvr": Recipe(prompts_per_iteration=128, learning_rate=5e-7, warmup_ratio=0.0, schedule="constant", epochs=30),
    }
)
"""The paper's table of hyper-parameters."""

CLIP_RANGES: Mapping[Loss, tuple[float, float]] = MappingProxyType(
    {"grpo": (0.2, 0.2), "dapo": (0.2, 0.28), "dr_grpo": (0.2, 0.2), "gspo": (3e-4, 4e-4)}
)
"""How far below and above 1 the ratio may go, as each loss was published (grpo: PPO's)."""

DEFAULT_IMPORTANCE_CAP = 2.0
"""As in the write-up that the correction comes from: fengyao.notion.site/off-policy-rl (2025)."""

CHECKPOINT_EVERY: Mapping[Method, int] = MappingProxyType({"sft": 10, "srl": 10, "rlvr": 1})
"""An iteration of rlvr costs more than a checkpoint."""

MAY_CHANGE_ON_RESUME = episode_config.MAY_CHANGE_ON_RESUME | frozenset(
    {
        "data",
        "profile",
        "output",
        "device",
        "attention",
        "threads",
        "trackers",
        "patience",
        "max_flat_iterations",
        "checkpoint_every",
        "keep_checkpoints",
        "cached_tokens",
        "concurrent_rollouts",
    }
)
"""Options that do not decide what an iteration learns (last digits may move with device, threads, batch sizes)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run. Where the paper says nothing, the choice is ours and the text says "not in the paper"."""

    model: Annotated[str, tyro.conf.arg(aliases=("--init",))]
    """Folder of the model to start from: safetensors weights, tokenizer and chat template."""
    output: Path
    """Folder of the run. Running the same command again continues the run that lies there."""
    data: str = ""
    """Where the step examples, for rlvr the instances, came from; written down with the run."""
    method: Method = "srl"
    """srl: sample, score against the expert's action, update. sft: imitate the expert's thought and action. rlvr: act
    on instances until the end, update by the verdict on what was done."""
    seed: int = 0
    """Seed of data order and sampling (not in the paper)."""

    prompts_per_iteration: int | None = None
    """Prompts per iteration; for srl and rlvr the groups that carry signal (the paper: 512 for srl, 128 for
    rlvr, 64 for sft)."""
    epochs: int | None = None
    """Passes over the step examples, for rlvr over the instances (the paper: up to 30 for srl and rlvr, 3 for sft).
    Ignored where num-iterations is given."""
    num_iterations: int | None = None
    """Sample-and-update cycles; by default they follow from epochs."""
    max_trained_tokens: int | None = None
    """The run ends after the iteration in which the completion tokens in its loss reach this number (expert tokens for
    sft, sampled ones else). Epochs are then no limit, and the schedule follows the tokens."""
    learning_rate: float | None = None
    """Peak learning rate of AdamW (the paper: 5e-7 for srl and rlvr, 5e-6 for sft; the optimizer is not in
    the paper)."""
    warmup_ratio: float | None = None
    """Share of the iterations over which the learning rate rises (the paper: 0 for srl and rlvr, 0.3 for sft)."""
    schedule: Schedule | None = None
    """Learning rate after warm-up (the paper: constant for srl and rlvr, cosine to 0 for sft)."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit: states of 8 bits, 2 bytes per trained parameter in place of 8 (the extra [8bit])."""
    weight_decay: float = 0.0
    """AdamW weight decay (not in the paper)."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm (the paper: 1.0)."""

    rollouts_per_prompt: int = 8
    """Size of a group (the paper: 8)."""
    temperature: float = 1.0
    """Sampling temperature (the paper: 1.0)."""
    loss: Loss = "grpo"
    """grpo: the paper's, mean over rollouts of the token mean. dapo: mean over all tokens. dr_grpo: sum over a constant
    length, advantages not divided by the std. gspo: ratio and clip per sequence."""
    clip_range: float | None = None
    """The ratio is clipped below 1 - this (not in the paper; default 0.2, PPO's, and for gspo 3e-4)."""
    clip_range_high: float | None = None
    """The ratio is clipped above 1 + this; by default clip-range where that is given, else as the loss was published
    (0.2; dapo 0.28; gspo 4e-4)."""
    kl_coef: float = 0.0
    """Weight of the KL divergence to the frozen starting model (the paper: 0). Above 0 a second copy of the model is
    held in memory: 2 bytes per parameter in bfloat16, 4 in float32."""
    importance_cap: float | None = None
    """The loss of a token is weighted by its probability under the policy over that under the sampler, up to this.
    0 = never; by default 2 where another engine than the embedded one samples (not in the paper)."""
    mask_overlong: bool = False
    """Rollouts that hit max-completion-tokens count in their group's mean and std, but not in the loss (DAPO's overlong
    filtering); for rlvr episodes that a limit ended."""
    min_reward_std: float = 1e-4
    """A group is trained on when the population std of its rewards exceeds this (ε_std; not in the paper)."""
    max_refills: int = 4
    """How often groups without signal are replaced in one iteration before it goes on with what there is; at most
    prompts-per-iteration * (1 + this) groups are sampled."""
    max_oversampling: float = 4.0
    """A round samples more prompts than it needs, by the share of groups kept lately, up to this factor. 1 = never."""
    skip_after_flat: int = 2
    """A step whose groups were flat so often in a row is passed over. 0 = never."""
    skip_epochs: int = 2
    """How often such a step is passed over before it is sampled again."""
    max_flat_iterations: int = 10
    """The run ends with an error after so many iterations in a row in which no group carried signal."""
    updates_per_iteration: int = 1
    """Optimizer updates an iteration's groups are split into (not in the paper)."""

    max_prompt_tokens: int = 4096
    """Step examples with a longer prompt are dropped and counted, never cut (not in the paper)."""
    max_completion_tokens: int = 1024
    """Sampling stops here; sft drops and counts longer targets (not in the paper)."""
    tokens_per_pack: int = 8192
    """Tokens of one forward and backward pass, shared prefixes counted once; memory grows with it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    sampler: str = "transformers"
    """transformers: in this process. vllm: a vLLM engine on this machine. http://HOST:PORT: a vLLM server that sees the
    run folder."""
    cached_tokens: int = 131_072
    """Bound on the sampler's key-value cache, in tokens; a server has its own."""
    concurrent_rollouts: int = 64
    """Bound on the rollouts that are decoded at once."""

    lora_rank: int | None = None
    """Train low-rank adapters of this rank beside every linear layer and freeze the weights, which then take 2 bytes
    per parameter in bfloat16. None = train all weights. Model folders of the run hold merged weights."""
    lora_alpha: int | None = None
    """Adapters are scaled by this / lora-rank (default: twice the rank)."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """bfloat16: float32 weights under autocast, sampling in bfloat16 (the paper: bf16)."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: the accelerator that is there, else the CPU."""
    attention: Attention = "auto"
    """How token trees attend. flex: FlexAttention, without masks; for GPUs. sdpa: with masks, block by block.
    auto: flex on CUDA, but sdpa for models with sinks (gpt-oss); else sdpa."""
    threads: int | None = None
    """CPU threads of torch; by default torch decides."""

    validate_every: int = 10
    """Iterations between validations; there is one before training and one at the end too."""
    validation_examples: int = 650
    """Held-out step examples per validation, drawn once by the seed (the paper: 650 steps)."""
    validation_temperature: float = 0.0
    """0 = greedy."""
    patience: int | None = None
    """The run ends after so many validations in a row without a better one. None = never."""
    checkpoint_every: int | None = None
    """Iterations between checkpoints (default 10, for rlvr 1); there is one at the end too."""
    keep_checkpoints: int = 2
    """How many full checkpoints stay on disk; the best model is kept besides."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers by Accelerate's names, for example tensorboard or wandb. metrics.jsonl is always written."""
    episodes: EpisodeConfig = field(default_factory=EpisodeConfig)

    def __post_init__(self) -> None:
        positive = (
            ("prompts_per_iteration", self.prompts_per_iteration),
            ("epochs", self.epochs),
            ("num_iterations", self.num_iterations),
            ("max_trained_tokens", self.max_trained_tokens),
            ("updates_per_iteration", self.updates_per_iteration),
            ("max_prompt_tokens", self.max_prompt_tokens),
            ("max_completion_tokens", self.max_completion_tokens),
            ("concurrent_rollouts", self.concurrent_rollouts),
            ("threads", self.threads),
            ("validate_every", self.validate_every),
            ("checkpoint_every", self.checkpoint_every),
            ("keep_checkpoints", self.keep_checkpoints),
            ("skip_epochs", self.skip_epochs),
            ("max_flat_iterations", self.max_flat_iterations),
            ("patience", self.patience),
            ("lora_rank", self.lora_rank),
            ("lora_alpha", self.lora_alpha),
        )
        for name, count in positive:
            _require(count is None or count >= 1, name, count, "an integer of at least 1")
        _require(self.model != "", "model", self.model, "a folder")
        _require(self.method in PAPER_RECIPES, "method", self.method, "sft, srl or rlvr")
        _require(self.schedule in (None, "constant", "cosine"), "schedule", self.schedule, "constant or cosine")
        _require(self.dtype in ("bfloat16", "float32"), "dtype", self.dtype, "bfloat16 or float32")
        _require(self.device in ("auto", "cpu"), "device", self.device, "auto or cpu")
        _require(self.attention in ("auto", "sdpa", "flex"), "attention", self.attention, "auto, sdpa or flex")
        optimizers = ("adamw", "adamw_8bit")
        _require(self.optimizer in optimizers, "optimizer", self.optimizer, "adamw or adamw_8bit")
        alone = self.lora_alpha is not None and self.lora_rank is None
        _require(not alone, "lora_alpha", self.lora_alpha, "left out without lora_rank")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "an integer in [0, 2**63)")
        rate = self.learning_rate
        _require(rate is None or 0 < rate < 1, "learning_rate", rate, "a number in (0, 1)")
        warmup = self.warmup_ratio
        _require(warmup is None or 0 <= warmup <= 1, "warmup_ratio", warmup, "a number in [0, 1]")
        _require(0 <= self.weight_decay < 1, "weight_decay", self.weight_decay, "a number in [0, 1)")
        finite_norm = math.isfinite(self.max_grad_norm) and self.max_grad_norm > 0
        _require(finite_norm, "max_grad_norm", self.max_grad_norm, "a finite number above 0")
        enough = self.rollouts_per_prompt >= 2
        _require(enough, "rollouts_per_prompt", self.rollouts_per_prompt, "an integer of at least 2")
        _require(0 < self.temperature <= 10, "temperature", self.temperature, "a number in (0, 10]")
        self._check_loss()
        known = self.sampler in ("transformers", "vllm") or self.sampler.startswith(("http://", "https://"))
        _require(known, "sampler", self.sampler, "transformers, vllm, or http://HOST:PORT of a vLLM server")
        _require(0 < self.min_reward_std < 1, "min_reward_std", self.min_reward_std, "a number in (0, 1)")
        _require(self.max_refills >= 0, "max_refills", self.max_refills, "an integer of at least 0")
        factor = self.max_oversampling
        _require(1 <= factor <= 100, "max_oversampling", factor, "a number in [1, 100]")
        _require(self.skip_after_flat >= 0, "skip_after_flat", self.skip_after_flat, "an integer of at least 0")
        _require(self.validation_examples >= 0, "validation_examples", self.validation_examples, "at least 0")
        heat = self.validation_temperature
        _require(0 <= heat <= 10, "validation_temperature", heat, "a number in [0, 10]")
        row = self.max_prompt_tokens + self.max_completion_tokens
        expected = f"at least max_prompt_tokens + max_completion_tokens = {row}"
        _require(self.tokens_per_pack >= row, "tokens_per_pack", self.tokens_per_pack, expected)
        group = self.max_prompt_tokens + self.rollouts_per_prompt * self.max_completion_tokens
        expected = f"room for one group, max_prompt_tokens + rollouts_per_prompt * max_completion_tokens = {group}"
        _require(self.cached_tokens >= group, "cached_tokens", self.cached_tokens, expected)
        least = self.rollouts_per_prompt
        expected = f"at least rollouts_per_prompt = {least}"
        _require(self.concurrent_rollouts >= least, "concurrent_rollouts", self.concurrent_rollouts, expected)

    def _check_loss(self) -> None:
        _require(self.loss in CLIP_RANGES, "loss", self.loss, ", ".join(CLIP_RANGES))
        low, high = self.clip_range, self.clip_range_high
        _require(low is None or 0 < low < 1, "clip_range", low, "a number in (0, 1)")
        _require(high is None or 0 < high < 100, "clip_range_high", high, "a number in (0, 100)")
        _require(0 <= self.kl_coef < 100, "kl_coef", self.kl_coef, "a number in [0, 100)")
        cap = self.importance_cap
        _require(cap is None or cap == 0 or 1 <= cap < 1000, "importance_cap", cap, "0, or a number in [1, 1000)")
        for name, value in (("kl_coef", self.kl_coef), ("mask_overlong", self.mask_overlong)):
            _require(not value or self.method != "sft", name, value, "left out for sft, which samples nothing")

    @property
    def clip_ranges(self) -> tuple[float, float]:
        """Return how far below and above 1 the ratio may go."""
        low, high = CLIP_RANGES[self.loss]
        if self.clip_range is not None:
            low = high = self.clip_range
        return low, high if self.clip_range_high is None else self.clip_range_high

    @property
    def truncation(self) -> float | None:
        """Return where the ratio of policy to sampler is truncated; None = the loss is not weighted by it."""
        if self.importance_cap is None:
            return None if self.sampler == "transformers" else DEFAULT_IMPORTANCE_CAP
        return self.importance_cap or None

    @property
    def recipe(self) -> Recipe:
        """Return the options that depend on the method, with the paper's values where none was given."""
        paper = PAPER_RECIPES[self.method]
        return Recipe(
            prompts_per_iteration=self.prompts_per_iteration or paper.prompts_per_iteration,
            learning_rate=paper.learning_rate if self.learning_rate is None else self.learning_rate,
            warmup_ratio=paper.warmup_ratio if self.warmup_ratio is None else self.warmup_ratio,
            schedule=self.schedule or paper.schedule,
            epochs=self.epochs or paper.epochs,
        )

    @property
    def checkpoint_interval(self) -> int:
        """Return how many iterations lie between two checkpoints."""
        return self.checkpoint_every or CHECKPOINT_EVERY[self.method]

    @property
    def longest_sequence(self) -> int:
        """Return how many completion tokens one advantage may stand for: those of a completion, or of an episode."""
        if self.method != "rlvr":
            return self.max_completion_tokens
        return self.episodes.max_episode_tokens or self.episodes.max_steps * self.max_completion_tokens

    def count_iterations(self, num_examples: int) -> int:
        """Return how many iterations the run has on so many usable step examples."""
        if self.num_iterations or self.max_trained_tokens:
            # An iteration that trains has a token at least; those that do not are bounded by max_flat_iterations.
            return self.num_iterations or self.max_trained_tokens or 0
        return self.recipe.epochs * math.ceil(num_examples / self.recipe.prompts_per_iteration)

    def learning_rate_at(self, iteration: int, num_iterations: int) -> float:
        """Return the learning rate of an iteration, counted from 1.

        Example: 10 iterations, warm-up 0.3, peak 1: 1/3, 2/3, 1 in the first three; then 1 or a cosine towards 0.
        """
        recipe = self.recipe
        num_warmup = math.ceil(recipe.warmup_ratio * num_iterations)
        if iteration <= num_warmup:
            return recipe.learning_rate * iteration / num_warmup
        if recipe.schedule == "constant":
            return recipe.learning_rate
        share = (iteration - num_warmup) / (num_iterations - num_warmup + 1)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    def learning_rate_after(self, trained_tokens: float) -> float:
        """Return the learning rate where so many tokens of `max_trained_tokens` are trained on.

        Example: 100 tokens, warm-up 0.2, peak 1, cosine: 0.5 after 10, 1 after 20, 0.5 after 60, 0 after 100.
        """
        assert self.max_trained_tokens is not None
        recipe = self.recipe
        share = min(trained_tokens / self.max_trained_tokens, 1.0)
        if share < recipe.warmup_ratio:
            return recipe.learning_rate * share / recipe.warmup_ratio
        if recipe.schedule == "constant" or recipe.warmup_ratio == 1:
            return recipe.learning_rate
        share = (share - recipe.warmup_ratio) / (1 - recipe.warmup_ratio)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    def as_json(self) -> dict[str, object]:
        """Return the resolved options, ready for json.dump."""
        resolved: dict[str, object] = asdict(self) | asdict(self.recipe)
        low, high = self.clip_ranges
        resolved |= {"clip_range": low, "clip_range_high": high, "checkpoint_every": self.checkpoint_interval}
        episodes = asdict(self.episodes)
        del resolved["episodes"]
        if self.method == "rlvr":
            resolved |= episodes
        resolved |= {"importance_cap": self.truncation or 0}
        return resolved | {"output": str(self.output), "trackers": list(self.trackers)}


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} must be {expected}, found {value!r}")
