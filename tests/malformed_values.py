"""What arguments of each kind can never be, for `malformed_calls.py`, and the right ones beside them."""

from typing import Any, ClassVar

import numpy as np

import numbarnn
from numbarnn import Dense

DATA = np.random.default_rng(0)
X = DATA.standard_normal((4, 3, 2)).astype("float32")
ROWS = [X[0], X[1, :1], X[2, :2]]
TABLE = X[:, 0]
TOKENS = DATA.integers(0, 5, (4, 3))
LABELS = np.array([0, 1, 0, 1])
STATE = DATA.standard_normal((1, 4, 3)).astype("float32")
HUGE = [10**9, 10**12, 2**31, 2**62, 2**63 - 1, 2**63, 10**30, 10**400]


class Elsewhere:
    """An array on a GPU, and no array of any use here."""

    __cuda_array_interface__: ClassVar[dict[str, Any]] = {
        "shape": (4, 3, 2),
        "typestr": "<f4",
        "data": (0, False),
        "version": 3,
    }


class Refusing:
    """An array of a library that does not hand it out."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise self.error("it is kept elsewhere")


class Odd:
    """Something with the attributes of an array, of other types."""

    shape, dtype, ndim = ("a",), "float", None


def not_none(value: Any, instead: Any) -> Any:
    """For arguments of which None is right."""
    return instead if value is None else value


class Wrong:
    """Malformed values, by the kind of argument that they stand for."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def one(self, *values: Any) -> Any:
        return values[self.rng.integers(len(values))]

    def thing(self) -> Any:
        """What is no array, number or name."""
        return self.one(
            None,
            object(),
            {"a": 1},
            {1, 2},
            len,
            "text",
            b"bytes",
            int,
            ...,
            Elsewhere(),
            Odd(),
            Refusing(RuntimeError),
            Refusing(TypeError),
            Refusing(ValueError),
            [Elsewhere()],
            [Odd()],
            lambda: 0,
            (i for i in [1]),
        )

    def array_of(self, shape: tuple[int, ...]) -> Any:
        """An array of this shape of something that is no real number, or is masked."""
        numbers = self.rng.standard_normal(shape)
        masked = np.ma.masked_array(numbers, np.zeros(shape, bool))
        if masked.size:
            masked[(-1,) * masked.ndim] = np.ma.masked
        else:
            return "text"
        return self.one(
            numbers + 1j,
            numbers.astype(str),
            np.full(shape, None),
            masked,
            numbers.astype("datetime64[s]"),
            np.zeros(shape, [("a", "f4")]),
            numbers.astype("timedelta64[ms]"),
            numbers.astype("S3"),
            np.zeros(shape, [("a", "f4"), ("b", "f8")]),
            np.full(shape, "a", object),
        )

    def not_finite(self, array: np.ndarray) -> np.ndarray:
        wrong = np.array(array, np.float64)
        wrong.flat[self.rng.integers(wrong.size)] = self.one(np.nan, np.inf, -np.inf, 1e300)
        return self.one(wrong, np.asfortranarray(wrong), wrong.tolist())

    def shape_like(self, array: np.ndarray) -> np.ndarray:
        """Another shape, of the same or another number of axes, in memory of any order."""
        while True:
            rank = int(self.rng.integers(0, array.ndim + 3))
            shape = tuple(int(size) for size in self.rng.integers(0, 6, rank))
            shape = self.one(
                shape, (*array.shape, 1), array.shape[1:], array.shape[:-1], (0, *array.shape[1:])
            )
            # A batch may have other numbers of rows and steps: what differs is the rank or the last axis.
            if len(shape) != array.ndim or 0 in shape or shape[-1] != array.shape[-1]:
                return self.one(np.asfortranarray, np.copy)(np.ones(shape, self.one("f4", "f8", "i8", ">f4")))

    def x(self) -> Any:
        rows = list(X)
        rows[self.rng.integers(4)] = self.one(
            self.thing(), X[0, :0], X[0, :, :1], X[0, 0], X, self.array_of((3, 2)), [[1.0], [1.0, 2.0]], 3.0
        )
        return self.one(
            self.thing(),
            self.array_of((4, 3, 2)),
            self.not_finite(X),
            self.shape_like(X),
            rows,
            tuple(rows),
            [],
            (),
            [[]],
            [[[]]],
            3.0,
            True,
            10**400,
            [[[10**400, 1]]],
            [X, X],
            [self.not_finite(X[0])],
            np.array(None),
            np.broadcast_to(X[:1, :1], (2**40, 3, 2)),
            [X[0], np.broadcast_to(X[0, :1], (2**42, 2))],
        )

    def x_of_any_width(self) -> Any:
        """For layers without parameters."""
        return self.one(self.array_of((4, 3, 2)), self.not_finite(X), self.thing(), np.ones((1, 1, 1, 1)))

    def targets_of_any_number(self) -> Any:
        """For losses, which do not know how many rows there are."""
        return self.one(self.array_of((4, 2)), self.not_finite(np.zeros((4, 2))), self.thing())

    def flat_arrays(self) -> Any:
        """For optimisers of one array of five float64 numbers."""
        return self.one(
            [np.ones(4)], [], [None], [np.ones((5, 1))], [np.ones(5, "f2")], [np.ones(5, int)],
            [np.ones(10)[::2]], 3, [np.ones(5, ">f8")], [self.array_of((5,))],
        )  # fmt: skip

    def vectors(self) -> Any:
        return self.one(
            self.thing(),
            self.array_of((4, 2)),
            self.not_finite(TABLE),
            [],
            [[1.0, 2.0], [1.0]],
            3.0,
            TABLE[:, :1],
            TABLE[:0],
            TABLE[0, 0],
            [[1.0, None]],
            ["ab", "cd"],
            np.ones((4, 2, 2, 2)),
        )

    def tokens(self) -> Any:
        wrong = TOKENS.copy()
        wrong.flat[self.rng.integers(wrong.size)] = self.one(-1, 5, 2**62, -(2**63))
        return self.one(
            self.thing(),
            self.array_of((4, 3)),
            wrong,
            list(wrong),
            TOKENS + 0.5,
            TOKENS.astype(bool),
            TOKENS[0],
            TOKENS[:, :0],
            TOKENS[..., None],
            [],
            [[]],
            1,
            [TOKENS[0], TOKENS[0, :0]],
            [[1, 2], [3.5]],
        )

    def labels(self) -> Any:
        wrong = LABELS.astype(self.one(float, int, "i1"))
        wrong[self.rng.integers(4)] = self.one(-1, 2, 100)
        return self.one(
            self.thing(),
            self.array_of((4,)),
            wrong,
            wrong[:, None],
            wrong.tolist(),
            LABELS[:3],
            LABELS + 0.5,
            [*LABELS, 0],
            1,
            [],
            np.full((4, 2), 0.5001 + self.rng.random()),
            np.zeros((4, 1, 1)),
            [[0], [0, 1], 1, 0],
            np.full(4, np.nan),
            np.eye(3)[LABELS],
            10**400,
        )

    def tags(self) -> Any:
        return self.one(
            self.thing(),
            self.labels(),
            self.array_of((4, 3)),
            np.full((4, 3), 7),
            np.full((4, 3), -1),
            np.zeros((4, 2), int),
            [[0, 1, 0]] * 3 + [[0, 1]],
            [[0, 1, 0]] * 3 + [None],
            np.zeros((4, 3, 3)),
        )

    def reals(self) -> Any:
        return self.one(
            self.thing(),
            self.array_of((4, 2)),
            np.zeros((4, 3)),
            np.zeros(4),
            self.not_finite(np.zeros((4, 2))),
            np.zeros((3, 2)),
            np.zeros((2, 4)),
            0.0,
        )

    def state(self) -> Any:
        return self.one(
            not_none(self.thing(), 0.0),
            self.array_of(STATE.shape),
            self.not_finite(STATE),
            STATE[:, :3],
            STATE[0],
            STATE[..., :2],
            [STATE, STATE],
            (STATE,) * 3,
            np.zeros((2, 4, 3)),
            0.0,
            [[[1.0], [1.0, 2.0]]],
            np.zeros((1, 4, 0)),
        )

    def gradient(self, shape: tuple[int, ...]) -> Any:
        array = np.ones(shape)
        wrong = self.one(
            array[1:], array[..., :1], array[None], array[0], array[..., None], array.T.copy()[:, :1]
        )
        return self.one(self.thing(), self.array_of(shape), self.not_finite(array), wrong, 3.0, [])

    def lengths(self) -> Any:
        return self.one(
            not_none(self.thing(), 0),
            self.array_of((4,)),
            [3, 2, 1],
            [3, 2, 1, 0],
            [1, 1, 1, 4],
            [1, 1, 1, -1],
            [1.0] * 4,
            3,
            [True] * 4,
            np.ones((4, 1), int),
            np.full(4, 2**63, np.uint64),
            [[1], [1, 2], 1, 1],
            [],
            10**30,
        )

    def count(self) -> Any:
        return self.one(
            self.thing(),
            0,
            -1,
            1.5,
            2.0,
            True,
            False,
            "3",
            [3],
            np.nan,
            np.inf,
            -(10**400),
            3j,
            np.ones(2),
            np.array(3.0),
        )

    def number(self, *more: Any) -> Any:
        return self.one(
            self.thing(),
            -1,
            -0.5,
            np.nan,
            np.inf,
            -np.inf,
            "1",
            True,
            [0.5],
            1j,
            10**400,
            np.ones(1),
            np.array(0.5),
            *more,
        )

    def flag(self) -> Any:
        return self.one(self.thing(), 1, 0, "yes", 1.0, [True], np.ones(1, bool))

    def seed(self) -> Any:
        return self.one(
            not_none(self.thing(), "0"), -1, 1.0, True, "0", [0], np.nan, np.float64(3), -(10**400)
        )

    def name(self) -> Any:
        return self.one(
            not_none(self.thing(), 3), "nothing", "", "TANH", 3, ["tanh"], np.array("tanh"), 1.5, "x" * 10_000
        )

    def choice(self) -> Any:
        return self.one("nothing", "", 3, ["adam"], None, 0.1, Dense, "x" * 10_000, object(), np.ones(2))

    def weight(self) -> Any:
        return self.one(
            not_none(self.thing(), 1.0),
            self.array_of((4,)),
            [1.0] * 3,
            [1.0, -1.0, 1.0, 1.0],
            [np.nan, 1, 1, 1],
            np.ones((4, 2)),
            np.ones((1, 4)),
            [0.0] * 4,
            [1e308] * 4,
            [1.0, None, 1.0, 1.0],
            2.0,
        )

    def class_weight(self) -> Any:
        bad = self.one(-1.0, np.nan, np.inf, None, "1", [1.0], np.ma.masked, 10**400)
        return self.one(
            "even",
            [1.0, 2.0],
            np.ones(2),
            1.0,
            {0: bad},
            {2: 1.0},
            {-1: 1.0},
            {"a": 1.0},
            {0.0: 1.0},
            {None: 1.0},
            {0: 0, 1: 0},
            {0: 1e308, 1: 1e308},
            {True: 1.0},
            {10**400: 1.0},
        )

    def pair(self) -> Any:
        return self.one(
            not_none(self.thing(), 1),
            X,
            (X,),
            (X, LABELS, LABELS),
            (self.x(), LABELS),
            (X, self.labels()),
            [],
            (None, None),
            (X[:, :, :1], LABELS),
            {"x": X},
        )

    def callbacks(self) -> Any:
        return self.one(
            not_none(self.thing(), 1),
            numbarnn.EarlyStopping(),
            [None],
            ["early"],
            [numbarnn.EarlyStopping],
            3,
            [numbarnn.EarlyStopping(monitor="nothing")],
        )

    def parameters(self, right: dict[str, np.ndarray]) -> Any:
        name = self.one(*right)
        array = right[name]
        wrong = self.one(
            self.thing(),
            self.array_of(array.shape),
            self.not_finite(array),
            array[None],
            array[:0],
            array.ravel()[:1],
            np.ones((*array.shape, 2)),
            1.0,
        )
        short = {key: value for key, value in right.items() if key != name}
        return self.one(
            self.thing(),
            {**right, name: wrong},
            {**right, name: wrong},
            short,
            {**right, "more": array},
            [*right],
            {**right, 3: array},
            {},
            {name.upper(): value for name, value in right.items()},
            {**right, "9.weight": array},
        )
