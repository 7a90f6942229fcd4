"""A network's weights: laid out once for the machine's products, instead of anew in every pass.

A linear layer over few rows is bound by reading its weights. The usual library rearranges them on
every call as soon as there are two rows: a pass of 2 then costs twice a pass of 1. Our kernels
(`engine.kernels`) have layouts of their own, and where there are none oneDNN has one. Another
layout, or weights in fewer bits, is a further `PackedLinear` that `layout.py` knows.
"""

from engine.weights.integers import IntegerEmbedding, IntegerLinear, rounded_matrix
from engine.weights.layout import embedding_factor, ends_of, lay_out, quantise
from engine.weights.packed import PackedLinear, unpacked
from engine.weights.precision import BITS, INT4, INT8, Precision
from engine.weights.sizes import bytes_loaded, bytes_read, num_weights

__all__ = [
    "BITS",
    "INT4",
    "INT8",
    "IntegerEmbedding",
    "IntegerLinear",
    "PackedLinear",
    "Precision",
    "bytes_loaded",
    "bytes_read",
    "embedding_factor",
    "ends_of",
    "lay_out",
    "num_weights",
    "quantise",
    "rounded_matrix",
    "unpacked",
]
