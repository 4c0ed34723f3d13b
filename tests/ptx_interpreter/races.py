"""Races: two accesses to one address, at least one of them a write, in no order that the hardware keeps."""

from typing import NamedTuple

import numpy as np

from ptx_interpreter.errors import PTXError

WARP = 32  # threads


class Touched(NamedTuple):
    """Accesses of equal size, as columns."""

    places: np.ndarray
    threads: np.ndarray
    lines: np.ndarray
    writes: np.ndarray
    orders: np.ndarray


def sorted_by_place(columns: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """The columns, sorted by the first one, and where each of its values begins."""
    order = np.argsort(columns[0], kind="stable")
    columns = [column[order] for column in columns]
    places = columns[0]
    return columns, np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))


def differ(column: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Whether the values of each group differ."""
    return np.minimum.reduceat(column, starts) != np.maximum.reduceat(column, starts)


class Accesses:
    """What the threads of a block touched in one memory since the last barrier.

    A shuffle of all threads of a warp orders what they do before it and after it: each access has the number
    of such shuffles that its warp had run.
    """

    def __init__(self, space: str) -> None:
        self.space = space
        self._records: list[tuple[int, Touched]] = []  # with the size of each access

    def add(
        self, places: np.ndarray, size: int, threads: np.ndarray, line: int, writes: bool, orders: np.ndarray
    ) -> None:
        count = places.size
        columns = Touched(places, threads, np.full(count, line), np.full(count, writes), orders)
        self._records.append((size, columns))

    def check(self) -> list[tuple[int, Touched]]:
        """Raise an error for a race, and forget all accesses.

        Returns
        -------
        list
            What was touched, for the check between blocks, with the size of each access.
        """
        if not self._records:
            return []
        grain = min(size for size, _ in self._records)
        parts = [
            touched._replace(places=touched.places + part)
            for size, touched in self._records
            for part in range(0, size, grain)
        ]
        touched = Touched(*map(np.concatenate, zip(*parts, strict=True)))
        self._records.clear()
        if touched.writes.any():
            self._check_groups(touched)
        return [(grain, touched)]

    def _check_groups(self, touched: Touched) -> None:
        columns, starts = sorted_by_place(list(touched))
        touched = Touched(*columns)
        suspect = np.logical_or.reduceat(touched.writes, starts) & differ(touched.threads, starts)
        stops = np.append(starts[1:], touched.places.size)
        for k in np.flatnonzero(suspect):
            group = Touched(*(column[starts[k] : stops[k]] for column in touched))
            warps = group.threads // WARP
            for w in np.flatnonzero(group.writes):
                in_order = (warps == warps[w]) & (group.orders != group.orders[w])
                others = np.flatnonzero((group.threads != group.threads[w]) & ~in_order)
                if others.size > 0:
                    self._refuse(group, w, others[0])

    def _refuse(self, group: Touched, writer: int, other: int) -> None:
        does = "writes" if group.writes[other] else "reads"
        raise PTXError(
            f"race in {self.space} memory at {group.places[writer]:#x}: thread {group.threads[writer]} writes"
            f" in line {group.lines[writer]}, thread {group.threads[other]} {does} in line"
            f" {group.lines[other]}, and there is no barrier between"
        )


def check_blocks(touched_by_blocks: list[list[tuple[int, Touched]]]) -> None:
    """Blocks run in no order at all: global memory that one writes no other may touch."""
    columns = []
    for block, of_block in enumerate(touched_by_blocks):
        for grain, touched in of_block:
            blocks = np.full(touched.places.size, block)
            for part in range(grain):
                columns.append((touched.places + part, blocks, touched.writes, touched.lines))
    if not columns:
        return
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
    (places, blocks, writes, lines), starts = sorted_by_place(joined)
    bad = np.flatnonzero(differ(blocks, starts) & np.logical_or.reduceat(writes, starts))
    if bad.size > 0:
        same = np.flatnonzero(places == places[starts[bad[0]]])
        writer = same[writes[same]][0]
        other = same[blocks[same] != blocks[writer]][0]
        raise PTXError(
            f"race in global memory between blocks: {blocks[writer]} writes in line {lines[writer]},"
            f" {blocks[other]} touches it in line {lines[other]}"
        )
