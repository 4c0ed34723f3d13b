"""Embedding: a learned vector for every token."""

import numpy as np

from numbarnn import arguments
from numbarnn.engine.fork import fork
from numbarnn.engine.program import by_cuts
from numbarnn.engine.sums import SUMMED_AT_ONCE
from numbarnn.engine.threads import even_cuts
from numbarnn.jit.compile_cache import inlined, kernel
from numbarnn.jit.cpu import padded
from numbarnn.layers.passes import Pass
from numbarnn.layers.stateless import StatelessLayer
from numbarnn.sequences.layout import Layout
from numbarnn.sequences.reading import FlatBatch, describe_place, pack_tokens


@inlined
def _look_up_rows(part, cuts, table, tokens, y, active, offset):
    row_start, row_stop = cuts[part], cuts[part + 1]
    for t in range(active.size):
        for n in range(offset[t] + row_start, offset[t] + min(row_stop, active[t])):
            for j in range(table.shape[1]):
                y[n, j] = table[tokens[n], j]


@kernel
def _look_up(team, cuts, table, tokens, y, active, offset):
    """y[n] = table[tokens[n]]."""
    fork(team, cuts.size - 1, _look_up_rows, cuts, table, tokens, y, active, offset)


@inlined
def _add_up_columns(part, cuts, tokens, offset, dy, dtable, counts, wide_rows, wide):
    first_column, stop_column = cuts[part], cuts[part + 1]
    total = offset[offset.size - 1]
    for token in range(dtable.shape[0]):
        for j in range(first_column, stop_column):
            dtable[token, j] = 0.0
    if total <= SUMMED_AT_ONCE:
        for n in range(total):
            for j in range(first_column, stop_column):
                dtable[tokens[n], j] += dy[n, j]
        return
    for token in range(dtable.shape[0]):
        counts[part, token] = 0
    rows_used = 0
    for n in range(total):
        token = tokens[n]
        for j in range(first_column, stop_column):
            dtable[token, j] += dy[n, j]
        counts[part, token] += 1
        if counts[part, token] % SUMMED_AT_ONCE == 0:
            if counts[part, token] == SUMMED_AT_ONCE:
                wide_rows[part, token] = rows_used
                for j in range(first_column, stop_column):
                    wide[rows_used, j] = 0.0
                rows_used += 1
            row = wide_rows[part, token]
            for j in range(first_column, stop_column):
                wide[row, j] += dtable[token, j]
                dtable[token, j] = 0.0
    if rows_used > 0:
        for token in range(dtable.shape[0]):
            if counts[part, token] >= SUMMED_AT_ONCE:
                row = wide_rows[part, token]
                for j in range(first_column, stop_column):
                    dtable[token, j] += wide[row, j]


@kernel
def _add_up(team, cuts, tokens, offset, dy, dtable, counts, wide_rows, wide):
    """dtable[tokens[n]] += dy[n] for all valid steps, in the order of n whatever the threads.

    `cuts` are between columns; the last number of `offset` says how many steps there are. Of a token's
    gradients `SUMMED_AT_ONCE` at a time are added up in its row of `dtable`, and these sums in a float64 row
    of `wide`: in row ``wide_rows[p, token]`` by part p, which has counted ``counts[p, token]`` gradients.
    """
    fork(team, cuts.size - 1, _add_up_columns, cuts, tokens, offset, dy, dtable, counts, wide_rows, wide)


class EmbeddingPass(Pass):
    layer: "Embedding"

    def prepare(self, layout, x, seed):
        self.begin(layout, layout.total * self.layer.embedding_dim)
        self.tokens = x
        self.y = self.buffers.matrix("y", layout.total, padded(self.layer.embedding_dim, self.store.dtype))
        return layout, self.y

    def forward_work(self):
        table, layout = self.store.values["weight"], self.layout
        return [by_cuts(_look_up, self.cuts, table, self.tokens, self.y, layout.active, layout.offset)]

    def prepare_backward(self, dy, need_dx):
        self.dy = dy

    def backward_work(self):
        # Tokens have no gradient; the table has.
        columns = self.layer.embedding_dim
        cuts = even_cuts(columns, min(self.threads, columns))
        dtable, total = self.store.gradients["weight"], self.layout.total
        shape = cuts.size - 1, self.layer.num_embeddings
        counts, wide_rows = np.empty(shape, np.int64), np.empty(shape, np.int64)
        wide = np.empty((min(total // SUMMED_AT_ONCE, self.layer.num_embeddings), columns))
        arguments = self.tokens, self.layout.offset, self.dy, dtable, counts, wide_rows, wide
        return [by_cuts(_add_up, cuts, *arguments)]


class Embedding(StatelessLayer):
    """A learned vector for every token.

    Parameters
    ----------
    num_embeddings : int
        How many tokens there are: 0 .. num_embeddings - 1.
    embedding_dim : int
        Features of a vector.
    dtype : {"float32", "float64"}
        What parameters and results are made of.
    device : {"cpu", "cuda"}
        Where the layer works; "cuda" is an NVIDIA GPU.

    Notes
    -----
    Parameters: ``weight (num_embeddings, embedding_dim)``, drawn from a normal distribution as in PyTorch.
    ``forward`` takes integers ``(B, T)`` or a list of ``(T_i,)``; ``backward`` returns None.

    Examples
    --------
    >>> import numpy as np
    >>> import numbarnn
    >>> numbarnn.Embedding(10, 3).forward(np.array([[1, 2, 9]])).shape
    (1, 3, 3)
    """

    pass_class = EmbeddingPass
    cuda_pass = "stateless", "EmbeddingCuda"
    takes_tokens = True
    takes_vectors = False

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, dtype: str = "float32", device: str = "cpu"
    ) -> None:
        super().__init__(dtype, device)
        self.num_embeddings = arguments.count("num_embeddings", num_embeddings)
        self.embedding_dim = arguments.count("embedding_dim", embedding_dim)

    def __repr__(self) -> str:
        return f"Embedding({self.num_embeddings}, {self.embedding_dim})"

    def output_size(self, input_size):
        return self.embedding_dim

    def parameter_shapes(self, input_size):
        return {"weight": (self.num_embeddings, self.embedding_dim)}

    def initialize(self, name, shape, input_size, rng):
        return rng.standard_normal(shape)

    def pack_input(self, steps: FlatBatch, layout: Layout) -> np.ndarray:
        bad = np.flatnonzero((steps.values < 0) | (steps.values >= self.num_embeddings))
        valid = np.zeros(len(steps.values), np.bool_)
        for start, count in zip(steps.form.starts, steps.form.lengths, strict=True):
            valid[start : start + count] = True
        bad = bad[valid[bad]]
        if bad.size:
            raise ValueError(
                f"x must hold tokens in 0..{self.num_embeddings - 1}; {describe_place(steps.form, bad[0])}"
                f" holds {steps.values[bad[0]]}"
            )
        return pack_tokens(steps, layout)
