"""The figures of a report, worked out by hand on small sets."""

import random
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from srl_swe.curation import findings
from srl_swe.curation.action_kinds import ActionKind
from srl_swe.curation.drop_explanations import EXPLANATIONS, concerns, explain
from srl_swe.curation.lengths import Distribution, characters, completion_text, tokens_of
from srl_swe.curation.set_report import ReportOptions, make_report
from srl_swe.curation.shared_prefixes import prefix_sharing, shared_prefix_length, tree_sizes
from srl_swe.curation.streaming import BoundedCounter, Reservoir
from srl_swe.errors import ConfigError, DataError, ModelError
from srl_swe.prompts import SYSTEM_PROMPT, PromptLimits, render
from srl_swe.training.prefix_tree import Row, build_pack
from srl_swe.trajectories.formats.drops import Reason
from srl_swe.trajectories.steps import step_examples
from srl_swe.types import CompiledTrajectory
from tests.curation.report_sets import HAND_MADE, trajectory, write_profile, write_replay, write_set
from tests.training.tiny import TEMPLATE


def test_a_pass_over_the_set_counts_what_is_in_it(tmp_path: Path) -> None:
    survey = make_report(write_set(tmp_path / "s"), ReportOptions()).survey
    assert survey.num_trajectories == {"train": 2, "validation": 1}
    assert survey.num_examples == {"train": 5, "validation": 2}
    assert (survey.num_instances, survey.num_repos) == (3, 2)
    found = [
        (
            each.source,
            each.num_trajectories,
            each.num_examples,
            each.num_resolved,
            each.num_unresolved,
            each.num_unknown,
        )
        for each in survey.sources
    ]
    assert found == [("swe_smith", 2, 5, 1, 1, 0), ("elsewhere", 1, 2, 0, 0, 1)]
    assert survey.step_counts == {2: 2, 3: 1}
    assert survey.kinds == {
        ActionKind.SUBMIT: {"train": 2, "validation": 1},
        ActionKind.LIST: {"train": 2, "validation": 0},
        ActionKind.VIEW: {"train": 1, "validation": 1},
    }
    assert {kind: (each.action, each.count) for kind, each in survey.common.items()} == {
        ActionKind.SUBMIT: ("submit", 2),
        ActionKind.LIST: ("ls", 2),
        ActionKind.VIEW: ("cat a", 1),
        None: ("submit", 2),
    }


def test_the_floor_is_scored_on_validation(tmp_path: Path) -> None:
    """2M/T by hand: "cat a" and "cat b" share 4 of 5 characters each, "submit" and "cat b" one of 6 and of 5."""
    overall, *by_kind = make_report(write_set(tmp_path / "s"), ReportOptions()).floors
    assert (overall.kind, overall.num_steps) == (None, 2)
    assert overall.copy_last == pytest.approx(2 / 11)
    assert overall.common_of_kind == pytest.approx((8 / 10 + 1) / 2)
    assert overall.common == pytest.approx((2 / 11 + 1) / 2)
    floors = {floor.kind: floor for floor in by_kind}
    assert set(floors) == {ActionKind.VIEW, ActionKind.SUBMIT}
    view = floors[ActionKind.VIEW]
    assert (view.num_steps, view.copy_last) == (1, None), "it is the first step: there is nothing to copy"
    assert (view.common_of_kind, view.common, view.best) == (
        pytest.approx(0.8),
        pytest.approx(2 / 11),
        pytest.approx(0.8),
    )
    assert floors[ActionKind.SUBMIT].best == 1.0


def test_without_validation_the_floor_is_scored_on_train(tmp_path: Path) -> None:
    report = make_report(write_set(tmp_path / "s", validation=frozenset()), ReportOptions())
    assert report.survey.num_examples == {"train": 7, "validation": 0}
    assert report.floors[0].num_steps == 7


def test_lengths_are_measured_in_characters_where_there_is_no_tokenizer(tmp_path: Path) -> None:
    report = make_report(write_set(tmp_path / "s"), ReportOptions())
    assert report.measure.unit == "characters"
    assert report.length("problem statement").lengths == (9, 9, 9)
    assert report.length("expert's action").lengths == (2, 2, 5, 5, 6, 6, 6)
    thought = report.length("expert's thought")
    assert (thought.lengths, thought.num_empty) == ((5, 5, 5, 5), 3)
    assert report.length("observation, uncut").lengths == (2,) * 7
    first = len(SYSTEM_PROMPT) + len("\n\n<issue>\nIt fails.\n</issue>")
    second = first + len("\n\n<command>\nls\n</command>\n<output>\n0\n</output>")
    assert report.length("prompt").lengths[:4] == (first, first, first, second)


@pytest.mark.parametrize(
    ("share", "length"), [(0.0, 1), (0.05, 1), (0.25, 5), (0.5, 10), (0.95, 19), (0.951, 20), (1.0, 20)]
)
def test_a_quantile_is_a_length_that_occurs(share: float, length: int) -> None:
    assert Distribution(name="", lengths=tuple(range(1, 21))).quantile(share) == length
    assert Distribution(name="", lengths=()).quantile(share) == 0


def test_a_tree_counts_what_texts_begin_with_alike_once() -> None:
    assert tree_sizes(["ab", "abc", "abd", "x"], len) == ([2, 3, 3, 1], 5)
    assert tree_sizes([], len) == ([], 0)
    assert tree_sizes(["same", "same", ""], len) == ([4, 4, 0], 4)
    generator = random.Random(0)
    for _ in range(200):
        texts = ["".join(generator.choices("ab", k=generator.randrange(7))) for _ in range(5)]
        prefixes = {text[:end] for text in texts for end in range(1, len(text) + 1)}
        assert tree_sizes(texts, len) == ([len(text) for text in texts], len(prefixes))


def test_counting_a_tree_is_linear_where_texts_extend_each_other() -> None:
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return len(text)

    trunk = "\n\n<command>" * 300
    texts = [f"{trunk[: 110 * index]}<|im_end|>" for index in range(30)]
    tree_sizes(texts, count)
    assert counted < 3 * len(trunk)


def test_shared_prefixes() -> None:
    assert [shared_prefix_length(*pair) for pair in (("", "a"), ("abc", "abd"), ("ab", "abc"), ("x", "y"))] == [
        0,
        2,
        2,
        0,
    ]


@pytest.mark.parametrize("history", [0, 1, 2, None])
def test_sharing_is_that_of_the_packs_that_training_builds(tmp_path: Path, history: int | None) -> None:
    """A token for each character: counted in pieces or whole, a text has the same tokens."""
    tokenizer = character_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    measure = tokens_of(str(tmp_path / "model"))
    limits = PromptLimits(history=history)
    some = (trajectory("o__c-1:0", ("ls", "ls -a", "cat a", "cat b", "submit"), targets=(0, 2, 3, 4)), *HAND_MADE)
    found = prefix_sharing(some, measure, limits, rollouts_per_prompt=3)

    packs = [rows_of(compiled, limits, tokenizer, num_rollouts=3) for compiled in some]
    groups = [rows[start : start + 3] for rows in packs for start in range(0, len(rows), 3)]
    assert found.num_steps == len(groups) == 11
    assert found.rows == sum(len(row.token_ids) for rows in packs for row in rows)
    assert found.group_trees == sum(build_pack(rows, range(3)).num_tokens for rows in groups)
    assert found.trajectory_trees == sum(build_pack(rows, range(len(rows))).num_tokens for rows in packs)
    assert found.trajectory_trees <= found.group_trees < found.rows


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Unlike the tiny model's tokenizer, one that tells all characters apart."""
    vocabulary = {character: index for index, character in enumerate(sorted(set(string.printable)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary | {"<unk>": len(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<|im_end|>", chat_template=TEMPLATE
    )


def rows_of(
    compiled: CompiledTrajectory, limits: PromptLimits, tokenizer: PreTrainedTokenizerFast, *, num_rollouts: int
) -> list[Row]:
    """Make rows whose completions are as long as the expert's and part at their first token."""
    rows = []
    for example in step_examples(compiled):
        messages = render(example.problem_statement, example.history, limits)
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        size = len(completion_text(example.expert_thought, example.expert_action)) + 1
        rows += [Row(prompt_ids=prompt, completion_ids=(1000 + len(rows) + i,) * size) for i in range(num_rollouts)]
    return rows


def test_outcomes_of_replay_and_profile_are_summed_up_by_kind(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "s")
    assert (before := make_report(folder, ReportOptions())).replay is None
    assert before.profile is None
    write_replay(folder)
    write_profile(folder)
    report = make_report(folder, ReportOptions())
    assert report.replay is not None
    assert report.profile is not None
    replay, profile = report.replay, report.profile
    assert (replay.num_trajectories, replay.num_broken_off, replay.num_reproduced) == (2, 1, 0)
    assert (replay.num_patches, replay.num_equal_patches, replay.verdicts) == (1, 1, {"resolved": 1})
    assert replay.steps == {"reproduced": 2, "differs": 1, "failed": 0}
    assert replay.by_kind[ActionKind.LIST] == {"reproduced": 2, "differs": 0, "failed": 0}
    assert replay.by_kind[ActionKind.VIEW] == {"reproduced": 0, "differs": 1, "failed": 0}
    assert replay.reasons == (("exit code 1, not 0", 1),)

    assert profile.spreads == {"similarity": 1, "all_equal": 1, "skipped": 1}
    assert profile.overall is not None
    assert profile.overall.mean_reward == pytest.approx((0.5 + 0.7 - 1 + 0.6 + 4) / 8)
    assert profile.overall.mean_similarity == pytest.approx((0.5 + 0.7 + 0.6 + 4) / 7)
    assert (profile.overall.num_steps, profile.overall.num_with_signal) == (2, 1)
    assert set(profile.by_kind) == {ActionKind.LIST, ActionKind.VIEW}


def test_the_profile_of_another_set_is_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "s")
    write_profile(folder, content_hash="0" * 64)
    with pytest.raises(DataError, match="another set"):
        make_report(folder, ReportOptions())


def test_a_sample_is_uniform_and_the_same_for_a_seed() -> None:
    chosen = Counter[int]()
    for seed in range(2000):
        reservoir = Reservoir[int](3, seed=seed)
        for item in range(10):
            reservoir.offer(lambda item=item: item)  # type: ignore[misc]
        assert len(set(reservoir.items)) == 3
        chosen.update(reservoir.items)
    assert all(520 < chosen[item] < 680 for item in range(10)), chosen
    assert reservoir.num_offered == 10


def test_an_item_is_made_only_where_it_is_kept() -> None:
    made = 0

    def make() -> int:
        nonlocal made
        made += 1
        return made

    reservoir = Reservoir[int](10, seed=0)
    for _ in range(10_000):
        reservoir.offer(make)
    assert 10 < made < 150, "10 + 10 ln(1000), about"


def test_counts_of_common_items_are_exact_up_to_a_bound() -> None:
    exact = BoundedCounter[str](4)
    for item in "abcab":
        exact.add(item)
    assert (exact.most_common(), exact.is_exact) == (("a", 2), True)
    bounded = BoundedCounter[int](100)
    for number in range(10_000):
        bounded.add(number)
        bounded.add(-1)
    assert (bounded.most_common(), bounded.is_exact) == ((-1, 10_000), False)
    assert BoundedCounter[str](4).most_common() is None


def test_every_reason_is_explained() -> None:
    assert set(EXPLANATIONS) == set(Reason)
    assert all(sentence.endswith(".") for sentence in EXPLANATIONS.values())
    assert explain("from_the_future").startswith("A reason that")
    found = [concerns(reason) for reason in ("duplicate", "repeated_action", "added_submit")]
    assert found == ["trajectory", "step", "note"]


def test_findings_are_sentences(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "s")
    write_replay(folder)
    write_profile(folder)
    report = make_report(folder, ReportOptions())
    assert findings.about_steps(report.survey.step_counts) == (
        "Half of the trajectories have at most 2 steps; the longest has 3"
    )
    assert findings.about_kinds(report.survey.kinds) == "Submit, list and view make 100 % of the step examples"
    assert "with the last 2 pairs and" in findings.about_sharing(report.sharing)
    assert findings.about_floor(report.floors) == "Copying the last action scores 0.18"
    assert report.replay is not None
    assert findings.about_replay(report.replay).startswith("67 % of the replayed commands")
    assert report.profile is not None
    assert findings.about_profile(report.profile).startswith("The rewards vary on 50 %")
    assert [findings.percent(1, 1000), findings.percent(3, 8), findings.percent(0, 5), findings.percent(1, 0)] == [
        "0.1 %",
        "38 %",
        "0 %",
        "\N{EN DASH}",
    ]


def test_full_history_is_measured_once(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "s")
    assert [each.history for each in make_report(folder, ReportOptions()).sharing] == [2, None]
    whole = ReportOptions(limits=PromptLimits(history=None))
    assert [each.history for each in make_report(folder, whole).sharing] == [None]


def test_examples_are_of_different_kinds_first(tmp_path: Path) -> None:
    report = make_report(write_set(tmp_path / "s"), ReportOptions(num_examples=4))
    assert len({shown.step.kind for shown in report.shown[:3]}) == 3
    assert len({shown.step.example_id for shown in report.shown}) == 4
    for shown in report.shown:
        assert (shown.copy_last is None) == shown.step.example_id.endswith("#0")


def test_a_completion_that_the_format_cannot_say_is_counted_all_the_same() -> None:
    assert completion_text("", "ls") == "\nls"
    assert completion_text("Look.", "ls") == "<think>\nLook.\n</think>\n```bash\nls\n```"
    assert characters().num_end_of_turn == 0


@pytest.mark.parametrize("name", ["rollouts_per_prompt", "sample_steps", "scored_steps", "sample_trajectories"])
def test_options_outside_their_range_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, found 0"):
        replace(ReportOptions(), **{name: 0})


def test_a_tokenizer_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere.*cannot be loaded"):
        tokens_of(str(tmp_path / "nowhere"))
