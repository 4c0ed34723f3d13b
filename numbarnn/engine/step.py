"""One time step of one row, in place and without allocation: what the public step functions call."""

from numba.extending import overload

from numbarnn.cells import (
    cell_forward,
    groups_at_once,
    load_sums,
    panel_vectors,
    product_width_of,
    sum_count_of,
)
from numbarnn.engine.matmul import multiply_row
from numbarnn.engine.scan.backward import SMALL_WEIGHTS_BYTES
from numbarnn.jit.compile_cache import STEP_OPTIONS
from numbarnn.jit.scratch import alternate, scratch
from numbarnn.jit.vector_memory import load, load_each, load_part, store, store_each, store_part
from numbarnn.jit.vectors import lane_count


def advance(weights, x, states):
    """states = one step of the cell from x (I,); `states` is a tuple of arrays (H,), h first."""
    width = lane_count(weights.bias)
    sum_count, product_width = sum_count_of(weights), product_width_of(weights)
    inputs, hidden, panel = weights.input.shape[1], weights.recurrent.shape[1], panel_vectors(weights) * width
    total = weights.bias.size
    groups = total // (sum_count * width)
    split = sum_count - product_width
    block = groups_at_once(weights)
    sums = scratch(total, weights.bias)
    new_h = scratch(groups * width, weights.bias)
    blocks = -(-groups // block)
    # As in scan/backward.py: what the step before read last is still in the cache.
    backwards = weights.recurrent.nbytes > SMALL_WEIGHTS_BYTES and alternate()
    for i in range(blocks):
        first = (blocks - 1 - i if backwards else i) * block
        stop = min(first + block, groups)
        skipped = first * split * width
        corner = skipped + split * width
        for group in range(first, stop):
            for s in range(product_width, sum_count):  # what the recurrent product alone fills
                index = (group * sum_count + s) * width
                store(sums, index, load(weights.bias, index))
        multiply_row(
            sums, skipped, weights.bias, skipped, panel, x, 0, 1, 1, inputs, 0,
            weights.input, 0, inputs * panel, panel, panel // width, first * product_width, stop *
            product_width,
        )  # fmt: skip
        multiply_row(
            sums, corner, sums, corner, panel, states[0], 0, 1, 1, hidden, 0,
            weights.recurrent, 0, hidden * panel, panel, panel // width, first * product_width, stop *
            product_width,
        )  # fmt: skip
        for group in range(first, stop):
            unit = group * width
            gate_sums = load_sums(weights, sums, group * sum_count * width)
            # A masked store is slow to read again: whole vectors go without.
            if hidden - unit >= width:
                _, new = cell_forward(weights, group, gate_sums, load_each(states, unit))
                store_rest(states, unit, new)
            else:
                count = hidden - unit
                _, new = cell_forward(weights, group, gate_sums, load_each_part(states, unit, count))
                store_rest_part(states, unit, new, count)
            # h stays as it is until every unit has read it; the other states belong to one unit each.
            store(new_h, unit, new[0])
    for unit in range(0, hidden, width):
        if hidden - unit >= width:
            store(states[0], unit, load(new_h, unit))
        else:
            store_part(states[0], unit, load(new_h, unit), hidden - unit)


def load_each_part(arrays, index, count):
    """The first `count` lanes of a vector from every array of a tuple."""
    return tuple(load_part(array, index, count) for array in arrays)


def store_rest(arrays, index, values):
    """Write a vector into every array of a tuple but the first."""
    for array, value in zip(arrays[1:], values[1:], strict=True):
        store(array, index, value)


def store_rest_part(arrays, index, values, count):
    """Write the first `count` lanes into every array of a tuple but the first."""
    for array, value in zip(arrays[1:], values[1:], strict=True):
        store_part(array, index, value, count)


@overload(load_each_part)
def _overload_load_each_part(arrays, index, count):
    if arrays.count == 1:
        return lambda arrays, index, count: (load_part(arrays[0], index, count),)
    return lambda arrays, index, count: (
        load_part(arrays[0], index, count),
        *load_each_part(arrays[1:], index, count),
    )


@overload(store_rest)
def _overload_store_rest(arrays, index, values):
    if arrays.count == 1:
        return lambda arrays, index, values: None
    return lambda arrays, index, values: store_each(arrays[1:], index, values[1:])


@overload(store_rest_part)
def _overload_store_rest_part(arrays, index, values, count):
    if arrays.count == 1:
        return lambda arrays, index, values, count: None

    def write(arrays, index, values, count):
        store_part(arrays[1], index, values[1], count)
        store_rest_part(arrays[1:], index, values[1:], count)

    return write


@overload(advance, jit_options=STEP_OPTIONS)
def _overload_advance(weights, x, states):
    return advance
