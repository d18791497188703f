"""Text that is made to be slow to read is read in time that grows with it and no faster: an alarm ends what hangs."""

import copy
import json
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srl_swe.trajectories.formats import read_chunk
from srl_swe.trajectories.inputs import Chunk, list_files, read_chunks, rows_of

NUM_CHARS = 100_000
ALARM_S = 20
"""What takes quadratic time takes minutes at this length; all else takes milliseconds."""

PIECES = [
    "x", "x.", "\n", " ", "[", "'", "\\", "0:", "&& ", "$(", "\r\n", "```\n", "```bash\n", "\n\n```\n", "<function=a>",
    "<parameter=a>", "<output>\n", "<returncode>0</returncode>", "<issue>", "<pr_description>", "a@b: ", "(Open file: ",
    "[File: a (", "[Jupyter ", "[Current working directory: /a]\n", "<<EOF\n", "cat <<'EOF'\n", "In [1]: ", "\x1b[",
    'echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT\n"',
]  # fmt: skip

FILES = {
    "mini-swe-agent, text": "samples/v2_textbased.traj.json",
    "mini-swe-agent, tool calls": "samples/v2_toolcall.traj.json",
    "SWE-smith": "swe_smith.jsonl",
    "SWE-Gym, sampled": "swe_gym_openhands_sampled.jsonl",
    "SWE-Gym, SFT": "samples/swe_gym_openhands_sft.derived.json",
    "nebius, SWE-agent": "nebius_swe_agent.jsonl",
    "nebius, OpenHands": "samples/nebius_swe_rebench_openhands.trimmed.json",
    "OpenHands, events": "openhands_output/output_row.trimmed.json",
    "OpenHands, 2024": "openhands_output/resolver_old_event_row.json",
    "SWE-agent 0.x": "swe_agent/v0_default_pydicom-1458.traj",
    "SWE-agent 0.x, xml": "swe_agent/v0_xml_marshmallow-1867.traj",
    "SWE-agent 1.x": "swe_agent/v1_function_calling_marshmallow-1867.traj",
    "SWE-agent, demonstration": "swe_agent/demo_history_only.traj",
}
CONVERSATIONS = ("messages", "trajectory", "history")


def texts(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the places of the texts of a conversation: its first turns and its last ones."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts(item, (*path, key))
    elif isinstance(value, list):
        for index in sorted({*range(min(4, len(value))), *range(max(0, len(value) - 2), len(value))}):
            yield from texts(value[index], (*path, index))
    elif isinstance(value, str):
        yield path


def damaged(row: Mapping[str, Any], path: tuple[str | int, ...], piece: str) -> dict[str, Any]:
    """Return the row with the piece repeated before and behind the text at a place."""
    result: Any = copy.deepcopy(dict(row))
    holder = result
    for key in path[:-1]:
        holder = holder[key]
    repeated = piece * (NUM_CHARS // len(piece))
    holder[path[-1]] = f"{repeated}{holder[path[-1]]}{repeated}"
    return result  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", FILES)
def test_no_text_makes_a_reader_hang(shared_data: Path, name: str) -> None:
    (file,) = list_files([shared_data / "trajectories" / FILES[name]])
    chunk = next(read_chunks(file))
    _, row = next(rows_of(chunk))
    assert isinstance(row, Mapping)
    places = [place for place in texts(row) if place[0] in CONVERSATIONS]
    # One place of each kind (a role's content, an observation…) is enough.
    kinds = {tuple(key for key in place if isinstance(key, str)): place for place in reversed(places)}

    def hang(*_: object) -> None:
        raise AssertionError(f"{name}: {place} filled with {piece!r} is not read in {ALARM_S} s")

    before = signal.signal(signal.SIGALRM, hang)
    try:
        for place in {*kinds.values(), *places[:5], *places[-2:]}:
            for piece in PIECES:
                signal.alarm(ALARM_S)
                read_all(chunk, damaged(row, place, piece))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_all(chunk: Chunk, row: dict[str, Any]) -> None:
    content = json.dumps(row).encode()
    for _ in read_chunk(replace(chunk, kind="document", content=content, is_named=False)):
        pass
