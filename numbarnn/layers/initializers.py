"""First values of weights, by name."""

import numpy as np

WEIGHT_INITIALIZERS = ("glorot_uniform", "orthogonal", "pytorch")
RECURRENT_INITIALIZERS = ("orthogonal", "identity", "glorot_uniform", "pytorch")


def initial_matrix(name: str, rows: int, columns: int, rng: np.random.Generator, units: int) -> np.ndarray:
    """One (rows, columns) block of weights.

    - ``"glorot_uniform"``: uniform in +-sqrt(6 / (rows + columns)) (Glorot and Bengio, "Understanding the
      difficulty of training deep feedforward neural networks", AISTATS 2010).
    - ``"orthogonal"``: orthonormal rows or columns (Saxe, McClelland and Ganguli, 2013, arXiv:1312.6120).
    - ``"identity"``: ones on the diagonal (Le, Jaitly and Hinton, 2015, arXiv:1504.00941).
    - ``"pytorch"``: uniform in +-1 / sqrt(units), biases too, as ``torch.nn`` does.
    """
    if name == "glorot_uniform":
        limit = np.sqrt(6.0 / (rows + columns))
        return rng.uniform(-limit, limit, (rows, columns))
    if name == "pytorch":
        limit = 1.0 / np.sqrt(units)
        return rng.uniform(-limit, limit, (rows, columns))
    if name == "identity":
        return np.eye(rows, columns)
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    basis, triangle = np.linalg.qr(tall)
    basis *= np.sign(np.diag(triangle))  # without the signs the distribution is not uniform
    return basis if rows >= columns else basis.T
