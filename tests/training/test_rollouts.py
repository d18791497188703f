from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srl_swe.errors import DataError
from srl_swe.training.batches import select_usable
from srl_swe.training.config import TrainConfig
from srl_swe.training.data_order import choose_subset, draw_indices, fingerprint
from srl_swe.training.policy import Policy
from srl_swe.training.refill import RefillState
from srl_swe.training.rollouts import collect_groups, score_completion
from srl_swe.training.samplers import SampledCompletion
from srl_swe.training.sft import collect_targets
from srl_swe.training.validation import validate

from .run_tiny import tiny_config
from .tiny import DOMAIN, make_examples


class ScriptedSampler:
    """Writes what a script says for each prompt: a second implementation of the protocol, without a model."""

    def __init__(self, policy: Policy, script: Callable[[str, int], str]) -> None:
        self._policy, self._script = policy, script
        self.seeds: list[int] = []
        self.sampled: list[int] = []
        """Completion tokens of each rollout."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        num_rollouts: int,
        max_completion_tokens: int,
        temperature: float,
        seed: int,
        on_prompt_done: Callable[[], None] | None = None,
    ) -> list[list[SampledCompletion]]:
        self.seeds.append(seed)
        groups = []
        for prompt in prompts:
            said = self._policy.decode_completion(list(prompt)).partition("say ")[2][0]
            texts = [self._script(said, rollout) for rollout in range(num_rollouts)]
            ids = [tuple(self._policy.encode_completion(text)) for text in texts]
            self.sampled += map(len, ids)
            groups.append(
                [
                    SampledCompletion(ids=i, logprobs=(0.0,) * len(i), text=t, stop_reason="stop")
                    for i, t in zip(ids, texts, strict=True)
                ]
            )
        return groups

    def update_weights(self, policy: Policy) -> None:
        pass


@pytest.fixture
def config(tiny_model: str) -> TrainConfig:
    return tiny_config(tiny_model, tiny_model, "srl")  # type: ignore[arg-type]


def collect(policy: Policy, sampler: ScriptedSampler, config: TrainConfig, drawn: int = 0, **options: object):  # type: ignore[no-untyped-def]
    return collect_groups(
        make_examples(8),
        drawn=drawn,
        policy=policy,
        sampler=sampler,
        domain=DOMAIN,
        config=config,
        on_sampling=lambda _: None,
        on_prompt_done=lambda: None,
        **options,
    )


def test_reward_by_hand() -> None:
    example = make_examples(1)[0]
    assert score_completion("hm|aaab", example, DOMAIN) == (0.75, {"similarity": 0.75, "well_formed": 1.0})
    assert score_completion("no format", example, DOMAIN) == (-1.0, {"similarity": 0.0, "well_formed": 0.0})


def test_groups_without_signal_are_replaced(tiny_policy: Policy, config: TrainConfig) -> None:
    # Only prompts about a, b, c and d give rewards that vary; e and f are flat, g and h malformed.
    def script(said: str, rollout: int) -> str:
        if said in "gh":
            return "a b"
        return f"hm|{said}" if rollout == 0 or said in "ef" else "hm|z"

    sampler = ScriptedSampler(tiny_policy, script)
    batch = collect(tiny_policy, sampler, config)
    assert batch.metrics["groups/kept"] == 4
    assert batch.metrics["groups/flat"] + batch.metrics["groups/all_malformed"] == batch.drawn - 4
    assert batch.metrics["groups/refills"] >= 1
    assert len(set(sampler.seeds)) == len(sampler.seeds)
    assert len(batch.rows) == 16
    # Rewards 1, 0, 0, 0.
    assert batch.advantages[:4] == pytest.approx([3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)])


def test_refills_are_bounded_and_an_empty_iteration_is_said_aloud(
    tiny_policy: Policy, config: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    batch = collect(tiny_policy, ScriptedSampler(tiny_policy, lambda said, rollout: "a b"), config)
    assert batch.rows == ()
    assert batch.drawn == 4 * (1 + config.max_refills)
    assert batch.metrics["groups/all_malformed"] == batch.drawn
    assert batch.metrics["reward/mean"] == -1.0
    assert "no group carried signal" in caplog.text


def test_a_low_keep_rate_samples_more_at_once_and_surplus_comes_next(tiny_policy: Policy, config: TrainConfig) -> None:
    # Every group varies, but the state expects one in four to: 16 sampled, 4 trained, 12 begin the next iteration.
    sampler = ScriptedSampler(tiny_policy, lambda said, rollout: f"hm|{said}" if rollout == 0 else "hm|z")
    first = collect(tiny_policy, sampler, config, refill=RefillState(keep_rate=0.25))
    assert len(sampler.seeds) == 1
    metrics = first.metrics
    assert (metrics["sampling/prompts"], metrics["groups/kept"], metrics["rollouts/surplus"]) == (16, 16, 48)
    assert len(first.rows) == metrics["rollouts/trained"] == 16
    assert first.refill is not None
    assert first.refill.keep_rate == pytest.approx(0.7 * 0.25 + 0.3)
    assert len(first.refill.surplus) == 12
    second = collect(tiny_policy, sampler, config, drawn=first.drawn, refill=first.refill)
    assert second.drawn == 0
    assert len(set(sampler.seeds)) == 2
    assert second.example_ids[0] == make_examples(8)[first.refill.surplus[0]].example_id


@given(
    kinds=st.lists(st.sampled_from(["varied", "flat", "malformed", "partly"]), min_size=8, max_size=8),
    keep_rate=st.floats(0.01, 1),
    max_refills=st.integers(0, 3),
    mask_overlong=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_every_rollout_and_token_is_accounted_for(
    tiny_policy: Policy,
    config: TrainConfig,
    kinds: list[str],
    keep_rate: float,
    max_refills: int,
    mask_overlong: bool,
) -> None:
    kind_of = dict(zip("abcdefgh", kinds, strict=True))

    def script(said: str, rollout: int) -> str:
        said_now = {"varied": rollout == 0, "flat": True, "malformed": True, "partly": rollout < 2}[kind_of[said]]
        return "a b" if kind_of[said] == "malformed" else f"hm|{said}" if said_now else "hm|zz"

    sampler = ScriptedSampler(tiny_policy, script)
    options = replace(config, max_refills=max_refills, mask_overlong=mask_overlong)
    refill, drawn = RefillState(keep_rate=keep_rate), 0
    for _ in range(3):
        before = len(sampler.sampled)
        batch = collect(tiny_policy, sampler, options, drawn=drawn, refill=refill)
        metrics, taken = batch.metrics, sampler.sampled[before:]
        assert metrics["rollouts/sampled"] == len(taken)
        assert metrics["rollout_tokens/sampled"] == sum(taken)
        for unit in ("rollouts", "rollout_tokens"):
            parts = ("trained", "masked", "surplus", "flat", "all_malformed")
            assert metrics[f"{unit}/sampled"] == sum(metrics[f"{unit}/{part}"] for part in parts)
        assert metrics["rollouts/trained"] + metrics["rollouts/masked"] == len(batch.rows) <= 16
        assert metrics["rollout_tokens/trained"] == sum(len(row.completion_ids) for row in batch.rows)
        assert metrics["sampling/prompts"] <= 4 * (1 + max_refills)
        assert metrics["groups/refills"] <= max_refills
        # The same state gives the same batch.
        again = collect(tiny_policy, ScriptedSampler(tiny_policy, script), options, drawn=drawn, refill=refill)
        assert again == batch
        assert batch.refill is not None
        refill, drawn = batch.refill, drawn + batch.drawn


def test_validation_by_hand(tiny_policy: Policy, config: TrainConfig) -> None:
    # a and b are hit, c is half hit, d is malformed. The expert's last action is never right.
    texts = {"a": "hm|a", "b": "hm|bb", "c": "hm|cz", "d": "a b"}
    metrics = validate(
        make_examples(4),
        policy=tiny_policy,
        sampler=ScriptedSampler(tiny_policy, lambda said, _: texts[said]),
        domain=DOMAIN,
        config=config,
        on_prompt_done=lambda: None,
    )
    assert metrics["validation/reward"] == (1 + 1 + 0.5 - 1) / 4
    assert metrics["validation/similarity"] == (1 + 1 + 0.5) / 4
    assert metrics["validation/format_rate"] == 0.75
    assert metrics["validation/copy_last_similarity"] == 0.0


def test_each_epoch_has_every_example_once() -> None:
    order = draw_indices(7, drawn=0, count=21, seed=5)
    for epoch in range(3):
        assert sorted(order[epoch * 7 : epoch * 7 + 7]) == list(range(7))
    assert order[:7] != order[7:14]
    assert draw_indices(7, drawn=5, count=6, seed=5) == order[5:11]
    assert draw_indices(7, drawn=0, count=21, seed=6) != order
    assert choose_subset(10, count=4, seed=1) == choose_subset(10, count=4, seed=1)
    assert choose_subset(3, count=4, seed=1) == [0, 1, 2]


def test_fingerprint_sees_every_field() -> None:
    examples = make_examples(3)
    assert fingerprint(examples) == fingerprint(make_examples(3))
    assert fingerprint(examples[::-1]) != fingerprint(examples)


def test_long_prompts_and_missing_thoughts_are_dropped_and_counted(tiny_policy: Policy, config: TrainConfig) -> None:
    from dataclasses import replace

    fine, long, silent, wordy = make_examples(4)
    long = replace(long, problem_statement="say b" * 50)
    silent = replace(silent, expert_thought=" ")
    wordy = replace(wordy, expert_thought="hm" * 20)
    options = {"policy": tiny_policy, "domain": DOMAIN, "config": config, "on_example": lambda: None}
    usable = select_usable([fine, long, silent, wordy], needs_target=True, **options)
    assert usable.examples == (fine,)
    assert usable.dropped == {"prompt_too_long": 1, "no_thought": 1, "completion_too_long": 1}
    assert select_usable([fine, long, silent, wordy], needs_target=False, **options).examples == (fine, silent, wordy)
    with pytest.raises(DataError, match="none of 1 step examples is usable: 1 prompt_too_long"):
        select_usable([long], needs_target=False, **options)


def test_sft_batches_end_with_the_epoch(tiny_policy: Policy, config: TrainConfig) -> None:
    examples = make_examples(6)
    drawn, sizes, seen = 0, [], []
    while drawn < 12:
        batch = collect_targets(examples, drawn=drawn, policy=tiny_policy, domain=DOMAIN, config=config)
        sizes.append(len(batch.rows))
        seen += [tiny_policy.decode_completion(list(row.completion_ids)) for row in batch.rows]
        drawn += batch.drawn
    assert sizes == [4, 2, 4, 2]
    assert sorted(seen[:6]) == sorted(seen[6:]) == [f"hm|{letter * 2}" for letter in "abcdef"]
