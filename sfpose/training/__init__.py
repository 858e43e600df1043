"""Training with torch: data, augmentation, objectives, loop, checkpoints, export.

May import ``networks``, ``geometry``, ``runtime`` and torch; nothing that runs at
inference imports it, except ``FaceEmbedder.fit`` from inside.
"""
