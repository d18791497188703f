"""Similarity against difflib bit for bit, and the baselines."""

from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe import rewards
from srl_swe.types import HistoryPair, StepExample

rewards.similarity("compiled", "once")  # some seconds, which no example below has to wait for

COMMAND = st.lists(
    st.sampled_from(["sed -n ", "1,20p ", "a.py", "grep -rn ", "'def f'", " | head", "\n", "é", "\U0001f600", "x" * 30])
    | st.text(max_size=8),
    max_size=40,
).map("".join)


def test_the_fast_backend_is_in_use_where_it_is_installed() -> None:
    pytest.importorskip("difflib_fast", reason="extra [train] is not installed")
    pytest.importorskip("numba", reason="extra [train] is not installed")
    assert rewards.backend() is not rewards.difflib_similarity


@given(COMMAND, COMMAND)
def test_similarity_equals_difflib_bit_for_bit(student: str, expert: str) -> None:
    assert rewards.similarity(student, expert) == SequenceMatcher(None, student, expert, autojunk=False).ratio()


def test_numbers_by_hand() -> None:
    # "abcd" and "bcde" share "bcd": 2 * 3 / 8.
    assert rewards.similarity("abcd", "bcde") == 0.75
    assert rewards.similarity("", "") == 1.0
    assert rewards.similarity("ls", "") == 0.0


def test_frequent_characters_of_long_actions_count() -> None:
    long = "print(value) " * 40
    assert rewards.similarity(long + "a", long + "b") > 0.99


def test_student_first_expert_second() -> None:
    pair = ("tide", "diet")  # the standard example of difflib's asymmetry
    assert rewards.similarity(*pair) == 0.25
    assert rewards.similarity(*reversed(pair)) == 0.5


def test_lone_surrogates_are_scored() -> None:
    assert rewards.similarity("a\ud800b", "a\ud800b") == 1.0


def test_matching_blocks_add_up_to_the_similarity() -> None:
    student, expert = "sed -n 1,20p a.py", "sed -n 1,40p b.py"
    blocks = rewards.matching_blocks(student, expert)
    total = sum(block.size for block in blocks)
    assert 2 * total / (len(student) + len(expert)) == rewards.similarity(student, expert)
    assert all(student[m.a : m.a + m.size] == expert[m.b : m.b + m.size] for m in blocks)


def test_a_backend_that_disagrees_is_refused() -> None:
    assert not rewards._agrees(lambda student, expert: SequenceMatcher(None, student, expert).ratio() + 1e-12)
    assert rewards._agrees(rewards.difflib_similarity)


def test_copy_last_scores_the_previous_action() -> None:
    example = StepExample(
        example_id="t-1", instance_id="i", trajectory_id="t", step_index=1, problem_statement="p",
        history=(HistoryPair(action="abcd", observation=""),), expert_thought="", expert_action="bcde",
    )  # fmt: skip
    assert rewards.copy_last(example) == 0.75


def test_completion_reward_by_hand() -> None:
    # "ls" is wholly in "ls -la": 2 * 2 / 8.
    assert rewards.completion_reward("<think>x</think>\n```bash\nls\n```", "ls -la") == 0.5
    assert rewards.completion_reward("<think>x</think>\n```bash\nls -la\n```", "ls -la") == 1.0
    assert rewards.completion_reward("<think>x</think>\nls -la", "ls -la") == -1.0


def test_trl_gives_one_reward_a_completion_and_ignores_further_columns() -> None:
    good, half = "<think>x</think>\n```bash\nls -la\n```", "<think>x</think>\n```bash\nls\n```"
    conversations = [[{"role": "assistant", "content": text}] for text in (good, half, "ls")]
    columns = {"prompts": ["p"] * 3, "completion_ids": [[1]] * 3, "example_id": ["a", "b", "c"], "trainer_state": None}
    assert rewards.trl_reward(conversations, ["ls -la"] * 3, **columns) == [1.0, 0.5, -1.0]
    assert rewards.trl_reward([good, half, "ls"], ["ls -la"] * 3, **columns) == [1.0, 0.5, -1.0]
    with pytest.raises(ValueError, match="shorter"):
        rewards.trl_reward([good, half], ["ls -la"])


@pytest.mark.parametrize("field", ["reasoning_content", "thinking"])
def test_a_thought_that_trl_has_taken_out_is_put_back(field: str) -> None:
    message = {"role": "assistant", field: "x", "content": "```bash\nls -la\n```"}
    assert rewards.trl_reward([[message]], ["ls -la"]) == [1.0]
    assert rewards.trl_reward([[message]], ["ls -la"], prefill="<think>\n") == [1.0]
    assert rewards.trl_reward([[message | {field: ""}]], ["ls -la"]) == [-1.0]
    assert rewards.trl_reward([[message | {"tool_calls": [{"type": "function"}]}]], ["ls -la"]) == [-1.0]
    assert rewards.trl_reward([[message, message]], ["ls -la"]) == [-1.0]


def test_a_prefilled_think_tag_counts_only_where_it_is_told() -> None:
    text = "x\n</think>\n```bash\nls\n```"
    answer = {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}]}
    assert rewards.trl_reward([text], ["ls -la"]) == [-1.0]
    assert rewards.trl_reward([text], ["ls -la"], prefill="<think>\n") == [0.5]
    assert rewards.verl_score("srl_swe", text, "ls -la", None) == -1.0
    assert rewards.verl_score("srl_swe", text, "ls -la", {"num_turns": 1}, prefill="<think>\n") == 0.5
    assert rewards.nemo_gym_reward(answer, "ls -la") == -1.0
    assert rewards.nemo_gym_reward(answer, "ls -la", prefill="<think>\n") == 0.5


def test_nemo_gym_responses() -> None:
    def message(text: str) -> dict[str, object]:
        return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}

    def thought(text: str) -> dict[str, object]:
        return {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": text}]}

    command = message("\n```bash\nls\n```")
    call = {"type": "function_call", "name": "bash", "arguments": "{}"}
    refusal = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    for output, expected in (
        ([thought("\nx\n"), command], 0.5),
        ([message("<think>x</think>\n```bash\nls -la\n```")], 1.0),
        ([command], -1.0),
        ([thought(""), command], -1.0),
        ([thought("x"), thought("y"), command], -1.0),
        ([thought("x"), command, call], -1.0),
        ([thought("x"), refusal], -1.0),
        ([], -1.0),
    ):
        assert rewards.nemo_gym_reward({"output": output}, "ls -la") == expected
