"""Enrol a person from several images and verify others, on two portraits.

pip install "sfpose[demo]"
python examples/quickstart.py
"""

from pathlib import Path

import matplotlib
import skimage
from PIL import Image

from sfpose import FaceEmbedder, TemplateVerifier

portraits = {
    "hopper": (
        Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
        (140, 90, 390, 345),
    ),
    "collins": (Path(skimage.__file__).parent / "data" / "astronaut.png", (150, 45, 310, 205)),
}
# A face detector of your choice gives the boxes; Pillow images go in as they are.
faces = {name: Image.open(path).convert("RGB").crop(box) for name, (path, box) in portraits.items()}
turned = faces["hopper"].rotate(8)

embedder = FaceEmbedder()
template = embedder.transform([faces["hopper"], turned])
verifier = TemplateVerifier(target_fmr=1e-3)
for name, probe in [("hopper again", turned), ("collins", faces["collins"])]:
    descriptor = embedder.transform([probe])[0]
    print(f"{name}: {verifier.verify(template, descriptor)}")
