"""The chi-square arithmetic: numba kernels and the NumPy reference they are tested against.

Kernels never check their input; they may import numpy and numba and nothing of the
library. Only ``sfpose._scoring`` and ``sfpose._search`` call them.
"""
