"""Frames cut anywhere, and outputs longer than what is kept."""

import itertools
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.environments.streams import AttachedStream, OutputBuffer
from srl_swe.errors import ContainerError


def _frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


@given(
    frames=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=20)), max_size=8),
    cuts=st.lists(st.integers(0, 200), max_size=10),
)
def test_frames_survive_any_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(_frame(*frame) for frame in frames)
    near, far = socket.socketpair()
    with far:
        stream = AttachedStream(near)
        received: dict[int, bytes] = {1: b"", 2: b""}
        bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        for start, end in itertools.pairwise(bounds):
            far.sendall(data[start:end])
            for source, payload in stream.receive(timeout_s=1) or []:
                received[source] += payload
        far.shutdown(socket.SHUT_WR)
        assert stream.receive(timeout_s=1) is None
        stream.close()
    for source in (1, 2):
        assert received[source] == b"".join(payload for stream_id, payload in frames if stream_id == source)


def test_nothing_yet_is_not_the_end_and_nonsense_is_an_error() -> None:
    near, far = socket.socketpair()
    with far:
        stream = AttachedStream(near)
        assert stream.receive(timeout_s=0.01) == []
        far.sendall(b"HTTP/1.1 500")
        with pytest.raises(ContainerError, match="frame"):
            stream.receive(timeout_s=1)
        stream.close()


@given(chunks=st.lists(st.binary(max_size=30), max_size=20), limit=st.integers(0, 60))
def test_buffer_keeps_head_and_tail(chunks: list[bytes], limit: int) -> None:
    buffer = OutputBuffer(limit)
    for chunk in chunks:
        buffer.add(chunk)
    whole = b"".join(chunks)
    assert buffer.omitted_bytes == max(0, len(whole) - limit)
    if buffer.omitted_bytes:
        head, tail = limit // 2, limit - limit // 2
        gap = f"\n[… {buffer.omitted_bytes} bytes left out …]\n".encode()
        assert buffer.content() == whole[:head] + gap + whole[len(whole) - tail :]
    else:
        assert buffer.content() == whole


def test_invalid_utf8_is_replaced() -> None:
    buffer = OutputBuffer(10)
    buffer.add(b"a\xff\r\n")
    assert buffer.text() == "a\ufffd\r\n"
