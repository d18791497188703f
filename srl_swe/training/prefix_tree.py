# ruff: noqa: N815 -- tensor shape suffixes are upper case
"""Rows that share prefixes -> packed token trees: each shared token is computed once.

Rows are merged by token ids into a trie, laid out depth-first in one sequence. In that order the
descendants of a node are contiguous, so "attend to my ancestors only" is two comparisons per entry, and blocks
of queries need few keys.
Several trees lie side by side in one pack; no token of one sees a token of another.
Leaves out the model. T = tokens of a pack, N = nodes with a target, S = rows, L = longest completion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One prompt and one completion; the completion's tokens are the targets."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Return prompt and completion in one tuple."""
        return self.prompt_ids + self.completion_ids


BLOCK_TOKENS = 256
"""Queries of one attention block."""
MAX_KEY_GAP = 32
"""Keys that nobody sees are passed along, masked, where leaving out fewer than this would cut a run in two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionBlock:
    """Consecutive queries and the keys that they may see."""

    start: int
    end: int
    key_runs: tuple[tuple[int, int], ...]
    """Half-open ranges of nodes, ascending; K keys in all."""
    mask_QK: Tensor
    """True where the key is the query's node itself or an ancestor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Token trees in one sequence.

    Example: rows ([1, 2], [3]) and ([1, 2], [4, 5]) give token_ids 1 2 3 4 5, positions 0 1 2 2 3,
    parents -1 0 1 1 3, ends 5 5 3 5 5, target_nodes 2 3 4, targets [[0, -], [1, 2]].
    """

    token_ids_T: Tensor
    positions_T: Tensor
    """Depth in the tree, which is the position in the row."""
    parents_T: Tensor
    """Index of the token before; -1 at a root."""
    ends_T: Tensor
    """One past the last descendant."""
    target_nodes_N: Tensor
    """Nodes whose log-probability (given their ancestors) is wanted, ascending."""
    targets_SL: Tensor
    """Per row and completion position, the index into N; 0 where the mask is false."""
    mask_SL: Tensor
    row_indices: tuple[int, ...]
    """Which of the caller's rows the S rows are."""

    @property
    def num_tokens(self) -> int:
        """Return T."""
        return len(self.token_ids_T)

    @property
    def num_row_tokens(self) -> int:
        """Return how many tokens the rows would have one by one, without padding."""
        depths_N = self.positions_T[self.target_nodes_N]
        last_S = self.mask_SL.sum(1, keepdim=True) - 1
        return int((depths_N[self.targets_SL.gather(1, last_S)] + 1).sum())

    def attention_blocks(self, allows: Callable[[Tensor, Tensor], Tensor] | None = None) -> list["AttentionBlock"]:
        """Cut the queries into blocks and give each the keys that one of its queries may see.

        Left out are tokens of other trees, of branches that ended before the block, and what `allows` says of positions
        in the row: a sliding window, for example.
        """
        ends_T, positions_T = self.ends_T.cpu(), self.positions_T.cpu()
        blocks = []
        for start in range(0, self.num_tokens, BLOCK_TOKENS):
            end = min(start + BLOCK_TOKENS, self.num_tokens)
            # A node before the block is an ancestor of its first query where its subtree goes on into the block.
            keys_K = (ends_T[:end] > start).nonzero().flatten()
            queries_Q1 = torch.arange(start, end)[:, None]
            if allows:
                keys_K = keys_K[self._sees(queries_Q1, keys_K, ends_T, positions_T, allows).any(0)]
            runs = _runs(keys_K.tolist())
            keys_K = torch.cat([torch.arange(*run) for run in runs])
            mask_QK = self._sees(queries_Q1, keys_K, ends_T, positions_T, allows)
            blocks.append(AttentionBlock(start=start, end=end, key_runs=runs, mask_QK=mask_QK))
        return blocks

    @staticmethod
    def _sees(
        queries_Q1: Tensor,
        keys_K: Tensor,
        ends_T: Tensor,
        positions_T: Tensor,
        allows: Callable[[Tensor, Tensor], Tensor] | None,
    ) -> Tensor:
        """Return whether the keys are the queries' own nodes or ancestors, and near enough: [Q, K]."""
        mask_QK = (keys_K <= queries_Q1) & (queries_Q1 < ends_T[keys_K])
        return mask_QK & allows(positions_T[queries_Q1], positions_T[keys_K]) if allows else mask_QK

    def to(self, device: torch.device) -> "Pack":
        """Return the pack with its tensors on a device."""
        names = ("token_ids_T", "positions_T", "parents_T", "ends_T", "target_nodes_N", "targets_SL", "mask_SL")
        moved = {name: getattr(self, name).to(device) for name in names}
        return Pack(**moved, row_indices=self.row_indices)


def _runs(nodes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Join ascending nodes to ranges. Example: 0 1 2 50 51 -> (0, 3), (50, 52)."""
    runs: list[tuple[int, int]] = []
    for node in nodes:
        if runs and node - runs[-1][1] < MAX_KEY_GAP:
            runs[-1] = (runs[-1][0], node + 1)
        else:
            runs.append((node, node + 1))
    return tuple(runs)


def shared_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many leading elements are equal."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def build_pack(rows: Sequence[Row], row_indices: Sequence[int]) -> Pack:
    """Merge the chosen rows into one pack.

    Raises:
        ValueError: a row without prompt or completion tokens.
    """
    ordered = sorted(row_indices, key=lambda index: rows[index].token_ids)
    token_ids: list[int] = []
    positions: list[int] = []
    parents: list[int] = []
    ends: list[int] = []
    path: list[int] = []
    row_targets: list[list[int]] = []
    previous: tuple[int, ...] = ()
    for index in ordered:
        row = rows[index]
        if not row.prompt_ids or not row.completion_ids:
            raise ValueError(f"row {index} needs prompt and completion tokens, found {row!r}")
        current = row.token_ids
        shared = shared_prefix_length(previous, current)
        for node in path[shared:]:
            ends[node] = len(token_ids)
        start, new = len(token_ids), len(current) - shared
        token_ids += current[shared:]
        positions += range(shared, len(current))
        parents += [path[shared - 1] if shared else -1, *range(start, start + new - 1)][:new]
        ends += [0] * new
        path[shared:] = range(start, start + new)
        row_targets.append(path[len(row.prompt_ids) :])
        previous = current
    for node in path:
        ends[node] = len(token_ids)
    target_nodes = sorted({node for nodes in row_targets for node in nodes})
    place = {node: position for position, node in enumerate(target_nodes)}
    longest = max(map(len, row_targets))
    return Pack(
        token_ids_T=torch.tensor(token_ids),
        positions_T=torch.tensor(positions),
        parents_T=torch.tensor(parents),
        ends_T=torch.tensor(ends),
        target_nodes_N=torch.tensor(target_nodes),
        targets_SL=torch.tensor([[place[n] for n in nodes] + [0] * (longest - len(nodes)) for nodes in row_targets]),
        mask_SL=torch.tensor([[True] * len(nodes) + [False] * (longest - len(nodes)) for nodes in row_targets]),
        row_indices=tuple(ordered),
    )


def pack_rows(rows: Sequence[Row], row_indices: Sequence[int], *, tokens_per_pack: int) -> list[Pack]:
    """Cut the chosen rows into packs of at most `tokens_per_pack` tree tokens.

    Rows of one prompt stay together where they fit into a pack; a group larger than that is cut
    between rows and its prompt repeated. A single row above the budget has a pack of its own.
    """
    ordered = sorted(row_indices, key=lambda index: rows[index].token_ids)
    pending: list[list[int]] = []
    for _, unit in groupby(ordered, key=lambda index: rows[index].prompt_ids):
        members = list(unit)
        fits_alone = _tree_tokens(rows, members) <= tokens_per_pack
        pending += [members] if fits_alone else [[index] for index in members]
    packs: list[list[int]] = []
    size = 0
    for members in pending:
        added = _tree_tokens(rows, members, after=packs[-1][-1] if packs else None)
        if packs and size + added <= tokens_per_pack:
            packs[-1] += members
            size += added
        else:
            packs.append(list(members))
            size = _tree_tokens(rows, members)
    return [build_pack(rows, members) for members in packs]


def _tree_tokens(rows: Sequence[Row], ordered: Sequence[int], after: int | None = None) -> int:
    """Count the tokens that rows in trie order add behind the row `after`."""
    total = 0
    previous = rows[after].token_ids if after is not None else ()
    for index in ordered:
        current = rows[index].token_ids
        total += len(current) - shared_prefix_length(previous, current)
        previous = current
    return total
