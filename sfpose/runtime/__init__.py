"""Running exported networks: the artifact format and onnxruntime sessions.

It may import numpy and, inside functions, onnxruntime; never torch, never the
rest of the library.
"""
