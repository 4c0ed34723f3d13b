"""The order of a kernel's instructions.

The threads with the lowest program counter run first, so that those that took different branches meet again
at the first instruction after both. That needs an order in which an instruction comes after all that lead to
it, loops apart, and what follows a loop comes after the loop. Compilers put rare code behind the end; threads
at the lowest counter would then go on without those that run it.
"""

from collections.abc import Iterable

from ptx_interpreter.text import Instruction

ENDS = ("bra", "ret", "exit")  # of a basic block


def in_order(code: list[Instruction], labels: dict[str, int]) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions and labels in that order; a basic block that went on with the next one has a branch."""
    starts = sorted({0, *labels.values(), *(k + 1 for k, each in enumerate(code) if each.opcode in ENDS)})
    starts = [start for start in starts if start < len(code)]
    stops = dict(zip(starts, [*starts[1:], len(code)], strict=True))
    falls_to = {start: _falls_to(code[stop - 1], stop, len(code)) for start, stop in stops.items()}
    follow = {}
    for start, stop in stops.items():
        last = code[stop - 1]
        targets = [labels[last.operands[0]]] if last.opcode == "bra" else []
        follow[start] = [block for block in (*targets, falls_to[start]) if block is not None]
    order, _ = _walk(follow, depth=_loop_depths(follow))

    labels = dict(labels)
    places: dict[int, int] = {}
    ordered: list[Instruction] = []
    for block, after in zip(order, [*order[1:], None], strict=True):
        places[block] = len(ordered)
        ordered += code[block : stops[block]]
        target = falls_to[block]
        if target is not None and target != after:
            labels[f"to {target}"] = target
            line = code[stops[block] - 1].line
            ordered.append(Instruction(line, None, "bra", (), (f"to {target}",), "the next instruction"))
    return ordered, {name: places[block] for name, block in labels.items() if block in places}


def _falls_to(last: Instruction, stop: int, end: int) -> int | None:
    """The basic block that follows without a branch."""
    ends_here = last.opcode in ENDS and last.guard is None
    return None if ends_here or stop == end else stop


def _loop_depths(follow: dict[int, list[int]]) -> dict[int, int]:
    """How many natural loops each basic block is in."""
    _, back_edges = _walk(follow, depth=dict.fromkeys(follow, 0))
    leading: dict[int, list[int]] = {block: [] for block in follow}
    for block, afters in follow.items():
        for after in afters:
            leading[after].append(block)
    depth = dict.fromkeys(follow, 0)
    for head in {head for _, head in back_edges}:
        inside, left = {head}, [tail for tail, other in back_edges if other == head]
        while left:
            block = left.pop()
            if block not in inside:
                inside.add(block)
                left += leading[block]
        for block in inside:
            depth[block] += 1
    return depth


def _walk(follow: dict[int, list[int]], depth: dict[int, int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Basic blocks in reverse postorder, those outside of a loop last; and the edges that go back."""
    done: list[int] = []
    back_edges: list[tuple[int, int]] = []
    seen, on_path = {0}, {0}

    def followers(block: int) -> Iterable[int]:
        # What is visited first comes last in the reverse order.
        return iter(sorted(follow[block], key=lambda after: depth[after]))

    path = [(0, followers(0))]
    while path:
        block, rest = path[-1]
        for after in rest:
            if after in on_path:
                back_edges.append((block, after))
            elif after not in seen:
                seen.add(after)
                on_path.add(after)
                path.append((after, followers(after)))
                break
        else:
            path.pop()
            on_path.discard(block)
            done.append(block)
    return done[::-1], back_edges
