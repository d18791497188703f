import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.training.prefix_tree import Row, build_pack, pack_rows, shared_prefix_length

# Few different tokens, so that prefixes are shared at every depth, prompts inside completions included.
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
ROWS = st.lists(st.builds(Row, prompt_ids=TOKENS, completion_ids=TOKENS), min_size=1, max_size=7)


def test_pack_by_hand() -> None:
    rows = [Row(prompt_ids=(1, 2), completion_ids=(4, 5)), Row(prompt_ids=(1, 2), completion_ids=(3,))]
    pack = build_pack(rows, [0, 1])
    assert pack.row_indices == (1, 0)
    assert pack.token_ids_T.tolist() == [1, 2, 3, 4, 5]
    assert pack.positions_T.tolist() == [0, 1, 2, 2, 3]
    assert pack.parents_T.tolist() == [-1, 0, 1, 1, 3]
    assert pack.ends_T.tolist() == [5, 5, 3, 5, 5]
    assert pack.target_nodes_N.tolist() == [2, 3, 4]
    assert pack.targets_SL.tolist() == [[0, 0], [1, 2]]
    assert pack.mask_SL.tolist() == [[True, False], [True, True]]
    assert pack.num_row_tokens == 7
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
    (block,) = pack.attention_blocks()
    assert block.mask_QK.int().tolist() == expected


def test_trees_of_one_pack_do_not_see_each_other() -> None:
    rows = [Row(prompt_ids=(1,), completion_ids=(2,)), Row(prompt_ids=(3,), completion_ids=(4,))]
    (block,) = build_pack(rows, [0, 1]).attention_blocks()
    assert block.mask_QK.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_blocks_leave_out_keys_that_nobody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srl_swe.training.prefix_tree.MAX_KEY_GAP", 1)
    monkeypatch.setattr("srl_swe.training.prefix_tree.BLOCK_TOKENS", 2)
    # Nodes: 0 1 (prompt), 2 3 and 4 5 (its completions), 6 7 (another tree).
    rows = [
        Row(prompt_ids=(1, 2), completion_ids=(3, 3)),
        Row(prompt_ids=(1, 2), completion_ids=(4, 4)),
        Row(prompt_ids=(9,), completion_ids=(9,)),
    ]
    blocks = build_pack(rows, range(3)).attention_blocks()
    assert [block.key_runs for block in blocks] == [((0, 2),), ((0, 4),), ((0, 2), (4, 6)), ((6, 8),)]
    assert blocks[2].mask_QK.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_blocks_leave_out_what_a_window_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srl_swe.training.prefix_tree.MAX_KEY_GAP", 1)
    monkeypatch.setattr("srl_swe.training.prefix_tree.BLOCK_TOKENS", 2)
    # Nodes: 0 1 2 (prompt), 3 4 and 5 6 (its completions, at positions 3 and 4). Nobody sees further back than one.
    rows = [Row(prompt_ids=(1, 2, 3), completion_ids=(token, token)) for token in (4, 5)]
    blocks = build_pack(rows, range(2)).attention_blocks(lambda query, key: key > query - 2)
    assert [block.key_runs for block in blocks] == [((0, 2),), ((1, 4),), ((2, 6),), ((5, 7),)]
    assert blocks[2].mask_QK.int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]


def test_rows_need_targets() -> None:
    with pytest.raises(ValueError, match="completion tokens"):
        build_pack([Row(prompt_ids=(1,), completion_ids=())], [0])


@given(TOKENS, TOKENS)
def test_shared_prefix_length(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    length = shared_prefix_length(first, second)
    assert first[:length] == second[:length]
    assert length == min(len(first), len(second)) or first[length] != second[length]


@given(ROWS, st.integers(12, 30))
def test_packs_hold_every_row_once_within_the_budget(rows: list[Row], budget: int) -> None:
    packs = pack_rows(rows, range(len(rows)), tokens_per_pack=budget)
    assert sorted(index for pack in packs for index in pack.row_indices) == list(range(len(rows)))
    assert all(pack.num_tokens <= budget for pack in packs)
    for pack in packs:
        for row_targets, mask, index in zip(pack.targets_SL, pack.mask_SL, pack.row_indices, strict=True):
            nodes = pack.target_nodes_N[row_targets[mask]]
            assert tuple(pack.token_ids_T[nodes].tolist()) == rows[index].completion_ids
            node, path = int(nodes[-1]), []
            while node >= 0:
                path.append(int(pack.token_ids_T[node]))
                node = int(pack.parents_T[node])
            assert tuple(reversed(path)) == rows[index].token_ids
        assert pack.num_row_tokens == sum(len(rows[index].token_ids) for index in pack.row_indices)


def test_group_larger_than_a_pack_is_cut_between_rows() -> None:
    rows = [Row(prompt_ids=(1, 2, 3, 4), completion_ids=(token, token)) for token in range(5)]
    packs = pack_rows(rows, range(5), tokens_per_pack=8)
    assert [pack.num_tokens for pack in packs] == [8, 8, 6]
