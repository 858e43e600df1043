"""The networks that ship: a folder each with model.onnx, manifest.json and model card.

Holds data and no code; ``sfpose.runtime.artifact`` reads it.
"""
