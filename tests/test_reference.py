"""The two oracles against each other, so that either may be trusted."""

import numpy as np
import pytest
import reference
from conftest import assert_close, random_problem

pytest.importorskip("torch")
import oracle_torch


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("cell", reference.CELLS)
def test_reference_is_torch(cell, bias, bidirectional, num_layers, ragged):
    problem = random_problem(
        cell, (6, 5, 3, 4), num_layers=num_layers, bidirectional=bidirectional, bias=bias, ragged=ragged
    )
    assert_close(reference.run(*problem), oracle_torch.run(*problem), 1e-12, dtype="float64")


@pytest.mark.parametrize("cell", reference.CELLS)
def test_dropout_is_a_product_between_layers(cell):
    """Two layers with a mask are two networks of one layer with a product between them."""
    two = random_problem(cell, (4, 3, 2, 5), num_layers=2, bidirectional=True, ragged=True)
    rng = np.random.default_rng(0)
    masks = [rng.choice([0.0, 2.0], (len(x), 10)) for x in two.x]
    actual = reference.run(*two, dropout_masks=[masks])

    def layer(index, x, dy):
        of_layer = f"_l{index}"
        parameters = {k.replace(of_layer, "_l0"): v for k, v in two.parameters.items() if of_layer in k}
        of_scans = (..., slice(2 * index, 2 * index + 2), slice(None), slice(None))
        initial_state, dstate = np.array(two.initial_state)[of_scans], np.array(two.dstate)[of_scans]
        return reference.run(cell, parameters, x, initial_state, dy, dstate, 1, True)

    first = layer(0, two.x, two.dy)  # only its outputs count, its backward waits for the second layer
    second = layer(1, [y * mask for y, mask in zip(first.outputs, masks, strict=True)], two.dy)
    first = layer(0, two.x, [dx * mask for dx, mask in zip(second.dx, masks, strict=True)])
    assert_close(actual.outputs, second.outputs, 1e-12)
    assert_close(actual.dx, first.dx, 1e-12)
    assert_close(actual.gradients["weight_ih_l0_reverse"], first.gradients["weight_ih_l0_reverse"], 1e-12)
    assert_close(actual.gradients["weight_hh_l1"], second.gradients["weight_hh_l0"], 1e-12)
