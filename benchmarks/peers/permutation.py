"""The order of a rotated projection's rows in GGUF."""

import numpy as np
from numpy.typing import NDArray


def permuted(weights: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """The rows of a q or k projection, those of a head's halves alternating.

    Row i of the first half of each head is followed by row i of its second half.
    """
    rows, columns = weights.shape
    halves = weights.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)
