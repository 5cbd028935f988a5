"""Damage for files, drawn by hypothesis and small enough to shrink."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

EXTREME = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**20, 10**9)
EDITS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2**24), st.integers(0, 2**16)), min_size=1, max_size=5)


def mutated(content: bytes, other: bytes, edits: Sequence[tuple[int, int, int]]) -> bytes:
    """Some edits of a file; the second number of each says where, the third how much or what."""
    now = bytearray(content)
    for kind, where, what in edits:
        # Headers lie at the beginning or the end; most of a file may be pixels.
        near = (len(now), min(len(now), 200), min(len(now), 40), -min(len(now), 200))[what % 4]
        place = where % near if near > 0 else len(now) - 1 - where % -near if near else 0
        span = 1 + what // 4 % 64
        if kind == 0:
            now[place : place + 1] = bytes([now[place] ^ 1 << what % 8]) if place < len(now) else b""
        elif kind == 1:
            now[place : place + 1] = bytes([what % 256])
        elif kind in (2, 3):
            width, order = 1 << what % 4, "big" if kind == 2 else "little"
            now[place : place + width] = (EXTREME[what % len(EXTREME)] % 256**width).to_bytes(width, order)
        elif kind == 4:
            del now[place:]
        elif kind == 5:
            del now[place : place + span]
        elif kind == 6:
            now[place:place] = now[place : place + span] * (1 + what % 3)
        elif kind == 7:
            start = what % max(1, len(other))
            now[place : place + span] = other[start : start + span]
        else:
            now[place:] = other[len(other) * what // 2**16 :]
    return bytes(now)
