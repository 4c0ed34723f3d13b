"""The shipped data against what was read off their source files."""

import doctest
import hashlib

import numpy as np
import pytest

from numbarnn.datasets import japanese_vowels, load_japanese_vowels

# Taken from JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts, parsed with float(), not from the shipped
# archive. The digest covers each utterance's label, shape and little-endian float64 bytes.
SOURCE = {
    "train": {
        "count": 270,
        "frames": 4274,
        "lengths": (7, 26),
        "first_lengths": [20, 26, 22, 20],
        "utterances_of_speaker": [30, 30, 30, 30, 30, 30, 30, 30, 30],
        "first_frame": (
            "1.860936,-0.207383,0.261557,-0.214562,-0.171253,-0.118167,"
            "-0.277557,0.025668,0.126701,-0.306756,-0.213076,0.088728"
        ),
        "last_frame": (
            "0.966744,-0.323093,0.305467,-0.419457,0.514195,-0.31106,"
            "-0.033985,0.154038,-0.389686,-0.089183,0.16625,0.173642"
        ),
        "digest": "1ce635e56093f0c38ba254cd6907c1b8d2d7dc88a06b3d3efb8533f183ed9ec3",
    },
    "test": {
        "count": 370,
        "frames": 5687,
        "lengths": (7, 29),
        "first_lengths": [19, 17, 19, 18],
        "utterances_of_speaker": [31, 35, 88, 44, 29, 24, 40, 50, 29],
        "first_frame": (
            "1.635533,0.024848,0.432087,-0.361914,-0.074776,-0.693481,"
            "-0.229621,0.261503,-0.089421,-0.020431,-0.008612,0.139754"
        ),
        "last_frame": (
            "1.177449,-0.40408,0.052026,-0.284812,0.42984,-0.203484,"
            "-0.072393,-0.080955,-0.244424,-0.001849,-0.016634,0.224688"
        ),
        "digest": "38bbac35725354d03b9140c96ed7ee554bd83ea51273a852ca62aca3a76450ee",
    },
}


@pytest.fixture(params=["train", "test"])
def part(request):
    """The utterances and labels of one part, and the facts about it."""
    train, test = load_japanese_vowels()
    x, y = train if request.param == "train" else test
    return x, y, SOURCE[request.param]


def test_form(part):
    x, y, source = part
    assert isinstance(x, list)
    assert len(x) == source["count"]
    for utterance in x:
        assert utterance.dtype == np.float64
        assert utterance.ndim == 2
        assert utterance.shape[1] == 12
        assert utterance.flags.c_contiguous
        assert utterance.flags.writeable
    assert y.dtype == np.int64
    assert y.shape == (source["count"],)
    assert y.flags.writeable


def test_lengths(part):
    x, _, source = part
    lengths = [len(utterance) for utterance in x]
    assert (min(lengths), max(lengths)) == source["lengths"]
    assert sum(lengths) == source["frames"]
    assert lengths[:4] == source["first_lengths"]


def test_labels_are_the_speakers_in_order(part):
    _, y, source = part
    assert np.bincount(y).tolist() == source["utterances_of_speaker"]
    assert (np.diff(y) >= 0).all()


def test_values_are_those_of_the_source_bit_for_bit(part):
    x, y, source = part
    assert x[0][0].tolist() == [float(text) for text in source["first_frame"].split(",")]
    assert x[-1][-1].tolist() == [float(text) for text in source["last_frame"].split(",")]
    digest = hashlib.sha256()
    for utterance, label in zip(x, y, strict=True):
        digest.update(f"{label} {utterance.shape} ".encode())
        digest.update(utterance.astype("<f8").tobytes())
    assert digest.hexdigest() == source["digest"]


def test_each_call_gives_fresh_arrays():
    for changed_part, fresh_part in zip(load_japanese_vowels(), load_japanese_vowels(), strict=True):
        (changed_x, changed_y), (fresh_x, fresh_y) = changed_part, fresh_part
        neighbour, expected_row, expected_label = changed_x[1].copy(), fresh_x[0][0].copy(), fresh_y[0]
        changed_x[0][:] = np.nan
        changed_y[0] = -1
        np.testing.assert_array_equal(changed_x[1], neighbour)
        np.testing.assert_array_equal(fresh_x[0][0], expected_row)
        assert fresh_y[0] == expected_label


def test_docstring_examples_run():
    result = doctest.testmod(japanese_vowels)
    assert result.attempted > 0
    assert result.failed == 0
