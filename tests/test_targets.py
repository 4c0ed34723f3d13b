"""What the losses make of targets, right or wrong."""

import numpy as np
import pytest

from numbarnn.training.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError, get_loss


def test_targets_of_any_kind_are_read():
    labels = CrossEntropy().check_targets([2, 0, 1], 3, "float32")
    assert (labels.dtype, labels.tolist()) == (np.int64, [2, 0, 1])
    for given in ([2.0, 0.0, 1.0], np.array([2, 0, 1], "uint8"), np.array([2, 0, 1], "int32")):
        np.testing.assert_array_equal(CrossEntropy().check_targets(given, 3, "float32"), labels)
    assert CrossEntropy().check_targets([True, False], 2, "float32").tolist() == [1, 0]
    shares = CrossEntropy().check_targets(np.asfortranarray(np.eye(3, dtype=int)), 3, "float32")
    assert (shares.dtype, shares.flags.c_contiguous) == (np.float32, True)
    assert shares.tolist() == np.eye(3).tolist()
    assert BinaryCrossEntropy().check_targets([True, False], 1, "float64").tolist() == [[1.0], [0.0]]
    assert MeanSquaredError().check_targets([[1], [2]], 1, "float64").tolist() == [[1.0], [2.0]]
    assert MeanSquaredError().check_targets(np.ones((2, 3)), 3, "float32").dtype == np.float32


@pytest.mark.parametrize(
    ("name", "y", "size", "error", "message"),
    [
        ("cross_entropy", [0, 3], 3, ValueError, "y must hold labels from 0 to 2, .* got 3 at position 1"),
        ("cross_entropy", [0, -1], 3, ValueError, "y must hold labels from 0 to 2, .* got -1 at position 1"),
        ("cross_entropy", [1, 1.5], 3, TypeError, "y must hold whole numbers .* got 1.5 at position 1"),
        ("cross_entropy", ["a", "b"], 3, TypeError, "y must hold numbers, got dtype <U1"),
        ("cross_entropy", [None, 1], 3, TypeError, "y must hold numbers, got dtype object"),
        ("cross_entropy", [0.0, np.nan], 3, ValueError, "y must hold finite numbers; got nan at position 1"),
        ("cross_entropy", [[[1]], [[2]]], 3, ValueError, r"y must have shape \(n,\), .* got \(2, 1, 1\)"),
        ("cross_entropy", 1, 3, ValueError, r"y must have shape \(n,\), .* got \(\)"),
        (
            "cross_entropy",
            [[0], [1, 2]],
            3,
            ValueError,
            "y is not a regular array: got rows of unequal length",
        ),
        (
            "cross_entropy",
            [[0.5, 0.4], [1, 0]],
            2,
            ValueError,
            "y must hold .* sum to 1 .* got the sum 0.9 at row 0",
        ),
        (
            "cross_entropy",
            [[1, 0], [1.5, -0.5]],
            2,
            ValueError,
            r"y .* at least 0; got -0.5 at position \(1, 1\)",
        ),
        ("binary_cross_entropy", [0, 2], 1, ValueError, "y must hold 0 and 1, .* got 2 at position"),
        ("binary_cross_entropy", [0, -0.1], 1, ValueError, "y must hold 0 and 1, .* got -0.1 at position"),
        ("binary_cross_entropy", [0, np.nan], 1, ValueError, "y must hold finite numbers; got nan"),
        ("binary_cross_entropy", [0, 1], 2, ValueError, r"y must have shape \(n, 2\), .* got \(2,\)"),
        ("binary_cross_entropy", ["yes"], 1, TypeError, "y must hold numbers, got dtype <U3"),
        ("mse", [0.0, np.inf], 1, ValueError, "y must hold finite numbers; got inf at position 1"),
        (
            "mse",
            [0.0, 1e60],
            1,
            ValueError,
            "y must hold numbers that float32 can hold; got 1e.60 at position",
        ),
        ("mae", np.zeros((2, 3)), 1, ValueError, r"y must have shape \(n,\) or \(n, 1\), .* got \(2, 3\)"),
        ("huber", [1j], 1, TypeError, "y must hold numbers, got dtype complex128"),
    ],
)
def test_wrong_targets_are_refused(name, y, size, error, message):
    with pytest.raises(error, match=message):
        get_loss(name).check_targets(y, size, "float32")
