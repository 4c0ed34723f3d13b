"""Who said these vowels? A small classification task with sequences of unequal length."""

from importlib import resources

import numpy as np
from numpy.typing import NDArray

_UNITS_PER_ONE = 1e6  # the source gives at most six decimals; the file holds them as whole millionths

_Utterances = tuple[list[NDArray[np.float64]], NDArray[np.int64]]


def load_japanese_vowels() -> tuple[_Utterances, _Utterances]:
    """Load the Japanese Vowels data: utterances of two vowels, to be told apart by speaker.

    Nine men said the vowels /ae/ again and again [1]_. Each utterance is a sequence of frames, and each
    frame holds 12 cepstrum coefficients from a linear prediction analysis of degree 12. The task is to name
    the speaker. Nothing is scaled, padded or shuffled: the order is the source's, speaker by speaker.

    Returns
    -------
    train : tuple of (list of 270 arrays, array of shape (270,))
        ``(x_train, y_train)``: 30 utterances by each speaker. An utterance is a C-contiguous float64 array
        of shape ``(T_i, 12)``, with ``T_i`` from 7 to 26 frames; the coefficients have no unit. A label is
        the speaker, an int64 from 0 to 8 (1 to 9 in the source).
    test : tuple of (list of 370 arrays, array of shape (370,))
        ``(x_test, y_test)``, in the same form: 24 to 88 utterances by each speaker, 7 to 29 frames long.

    Notes
    -----
    Frames last 25.6 ms and start every 6.4 ms, of sound sampled at 10 kHz [2]_. Every call reads the file
    anew, so that the arrays may be changed in place. The data are licensed CC BY 4.0 [2]_;
    ``numbarnn/datasets/data/JAPANESE_VOWELS.md`` says what was changed.

    References
    ----------
    .. [1] M. Kudo, J. Toyama and M. Shimbo (1999). Multidimensional curve classification using
       passing-through regions. Pattern Recognition Letters 20 (11-13), 1103-1111.
    .. [2] M. Kudo, J. Toyama and M. Shimbo (1999). Japanese Vowels. UCI Machine Learning Repository.
       https://doi.org/10.24432/C5NS47

    Examples
    --------
    >>> from numbarnn.datasets import load_japanese_vowels
    >>> (x_train, y_train), (x_test, y_test) = load_japanese_vowels()
    >>> len(x_train), len(x_test)
    (270, 370)
    >>> [utterance.shape for utterance in x_train[:3]]
    [(20, 12), (26, 12), (22, 12)]
    >>> sorted(set(y_train.tolist()))
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """
    file = resources.files("numbarnn.datasets") / "data" / "japanese_vowels.npz"
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        train, test = (
            _utterances(arrays[f"{part}_values"], arrays[f"{part}_lengths"], arrays[f"{part}_labels"])
            for part in ("train", "test")
        )
    return train, test


def _utterances(
    values: NDArray[np.int32], lengths: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> _Utterances:
    """Cut all frames ``(sum of T_i, 12)``, one utterance after another, into a list of utterances."""
    # A quotient is rounded correctly, and so gives the very float64 that the source's decimals stand for.
    frames = values / _UNITS_PER_ONE
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.split(frames, ends[:-1]), labels.astype(np.int64)
