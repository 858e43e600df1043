"""What is fuzzed: images, artifacts, manifests, networks, galleries, tensor files.

Each fuzzer takes a whole file of its kind and a way to damage it, and asks the same of
the library: a right answer, or a ValueError (FileNotFoundError) that says why. Used by
test_fuzz.py for a bounded number of examples and by ``benchmarks/reliability.py fuzz``
for as long as you like.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sfpose import TemplateGallery
from sfpose.bundle import VerificationBundle
from sfpose.decision import shipped_rule
from sfpose.preprocessing import MAX_PIXELS, decode_image, iterate_images, loose_crop
from sfpose.runtime.artifact import read_artifact, read_manifest
from sfpose.runtime.inspection import check_network
from sfpose.runtime.protobuf import Message
from sfpose.runtime.session import OnnxModel
from sfpose.runtime.tensors import map_tensor, tensor_file

PHOTO = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
REFUSED = (ValueError, FileNotFoundError)


def _picture(kind, mode="RGB", **options):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    image = Image.fromarray(PHOTO).convert(mode)
    image.save(buffer, kind, **options, **({} if kind == "GIF" else {"exif": exif}))
    return buffer.getvalue()


@functools.cache
def pictures():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    moving = {"save_all": True, "append_images": [Image.fromarray(255 - PHOTO)]}
    return (
        _picture("JPEG", icc_profile=profile),
        _picture("JPEG", progressive=True),
        _picture("JPEG", "CMYK"),
        _picture("JPEG", "L"),
        _picture("PNG", icc_profile=profile),
        _picture("PNG", "P"),
        _picture("PNG", "LA"),
        _picture("PNG", "1"),
        _picture("PNG", **moving),
        _picture("WEBP"),
        _picture("WEBP", lossless=True, icc_profile=profile),
        _picture("WEBP", **moving),
        _picture("MPO", **moving),
        _picture("GIF"),
    )


@st.composite
def damaged(draw, whole):
    """Bytes of one of the files with a few changes: bits, pieces, cuts, numbers."""
    data = bytearray(draw(st.sampled_from(whole() if callable(whole) else whole)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        what = draw(st.integers(0, 5))
        if what == 0 and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif what == 1:
            size = draw(st.integers(1, 8))
            number = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**32 - 1, 2**63]))
            data[place : place + size] = (number % 256**size).to_bytes(
                size, draw(st.sampled_from(["big", "little"]))
            )
        elif what == 2:
            data[place:place] = draw(st.binary(max_size=16))
        elif what == 3:
            del data[place : place + draw(st.integers(1, 64))]
        elif what == 4:
            other = draw(st.integers(0, max(0, len(data) - 1)))
            data[place:place] = data[other : other + draw(st.integers(1, 200))]
        else:
            del data[place:]
    return bytes(data)


@given(damaged(pictures) | st.binary(max_size=200))
def fuzz_images(data):
    """A picture is decoded to uint8 RGB of a bounded size, or refused."""
    try:
        image = decode_image(io.BytesIO(data), "fuzzed")
    except ValueError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS
    assert loose_crop(image, 8).shape == (8, 8, 3)


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.integers(),
            st.text(max_size=9),
            st.binary(max_size=9),
            st.builds(
                lambda shape, kind: np.zeros(shape, kind),
                st.lists(st.integers(0, 5), max_size=5),
                st.sampled_from(["u1", "u2", "i1", "f4", "f8", "?", "O", "U3"]),
            ),
            st.builds(
                Image.new,
                st.sampled_from(["1", "L", "P", "RGB", "RGBA", "CMYK", "LAB", "HSV", "I", "F"]),
                st.tuples(st.integers(0, 9), st.integers(0, 9)),
            ),
        ),
        max_size=4,
    )
    | st.sampled_from([None, 0, "a.jpg", b"a", {}, PHOTO, PHOTO.astype(float)])
)
def fuzz_collections(images):
    """Whatever is given instead of images is refused, with the number of the image."""
    try:
        decoded = list(iterate_images(images))
    except REFUSED:
        return
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in decoded)


@functools.cache
def networks():
    return (read_artifact("landmarks").model[:3000], small_network())


@functools.cache
def small_network():
    """The shipped landmark network with its tensors made small, so that damage hits."""
    import onnx

    model = onnx.load_from_string(read_artifact("landmarks").model)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 64:
            del tensor.dims[:]
            tensor.dims.append(4)
            tensor.raw_data = tensor.raw_data[:16]
    return model.SerializeToString()


@given(damaged(networks) | st.binary(max_size=200))
def fuzz_networks(data):
    """An ONNX file passes, or is refused; what passes, onnx parses or onnxruntime refuses."""
    try:
        check_network(data)
    except ValueError:
        return
    import onnx
    from google.protobuf.message import DecodeError

    try:
        parsed = onnx.load_from_string(data)
    except DecodeError:
        # In a field that the check does not look into, such as the metadata of a node.
        with contextlib.suppress(ValueError):
            OnnxModel(data).run(np.zeros((1, 3, 64, 64), np.float32))
            raise AssertionError("onnxruntime runs what onnx cannot parse") from None
        return
    assert not parsed.functions
    assert not any(tensor.external_data for tensor in parsed.graph.initializer)
    assert not any(attribute.HasField("g") for n in parsed.graph.node for attribute in n.attribute)


@given(st.binary(max_size=300))
def fuzz_protobuf(data):
    """Any bytes are a message or a ValueError, and a message can be asked anything."""
    try:
        message = Message(data)
    except ValueError:
        return
    for field in range(32):
        for ask in (message.number, message.data, message.text, message.message, message.each):
            with contextlib.suppress(ValueError):
                ask(field)
        with contextlib.suppress(ValueError):
            message.numbers(field)
            list(message.messages(field))
            message.texts(field)


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def manifests(draw):
    """The shipped manifest with a few of its entries, at any depth, made something else."""
    manifest = json.loads(json.dumps(dict(read_manifest("default"))))
    for _ in range(draw(st.integers(0, 3))):
        table = manifest
        while True:
            keys = list(table) if isinstance(table, dict) else list(range(len(table)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(table[key], (dict, list)) and draw(st.booleans()):
                table = table[key]
                continue
            table[key] = draw(Json)
            break
    return json.dumps(manifest).encode()


@given(manifests() | damaged(lambda: (json.dumps(dict(read_manifest("default"))).encode(),)))
def fuzz_manifests(data):
    """A manifest gives a threshold, an input and a size that make sense, or is refused."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "manifest.json").write_bytes(data)
        (folder / "model.onnx").write_bytes(read_artifact("default").model)
        try:
            threshold = shipped_rule(folder, 1e-3).threshold
            artifact = read_artifact(folder)
            size = artifact.network_input.size
            width = artifact.descriptor_size
        except REFUSED:
            return
        assert 0 <= threshold < np.inf
        assert 1 <= size <= 1024
        assert width >= 1


@contextlib.contextmanager
def _file_alone(name, data):
    """A file of these bytes, beside which nothing may be written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path
        assert [entry.name for entry in Path(folder).iterdir()] == [name]


@functools.cache
def archives():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps(dict(read_manifest("landmarks"))))
        archive.writestr("model.onnx", read_artifact("landmarks").model[:500])
    return (buffer.getvalue(),)


@given(damaged(archives))
def fuzz_archives(data):
    """A zip file gives its manifest, or is refused; nothing is written."""
    with _file_alone("artifact.zip", data) as path, contextlib.suppress(*REFUSED):
        assert read_manifest(path)["format"] == "sfpose-artifact"
        read_artifact(path)


@given(damaged((tensor_file("templates", np.ones((3, 5), np.float32)),)))
def fuzz_tensors(data):
    """A tensor file is a matrix that lies in the file, or is refused."""
    with _file_alone("templates.safetensors", data) as path:
        try:
            values = map_tensor(path, "templates")
        except REFUSED:
            return
        assert values.size * 4 <= len(data)


@functools.cache
def gallery_files():
    with tempfile.TemporaryDirectory() as name:
        gallery = TemplateGallery()
        gallery.add(["ann", "bo", 3], np.ones((3, 5)))
        folder = gallery.save(Path(name) / "people")
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@given(st.data(), st.booleans())
def fuzz_galleries(data, verify):
    """A gallery is whole, or refused; and with its digests checked it is the one saved."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, contents in gallery_files().items():
            (folder / file).write_bytes(data.draw(damaged((contents,))))
        try:
            gallery = TemplateGallery.load(folder, verify=verify)
        except REFUSED:
            return
        assert len(gallery) == len(gallery.templates)
        if verify:
            assert list(gallery) == ["ann", "bo", 3]
            assert (gallery.templates == 1).all()


@functools.cache
def bundles():
    return ((Path(__file__).resolve().parents[1] / "data" / "bundle-v1.zip").read_bytes(),)


@given(damaged(bundles))
def fuzz_bundles(data):
    """A bundle has the people and the network that were saved, or is refused."""
    with _file_alone("bundle.zip", data) as path:
        try:
            bundle = VerificationBundle.load(path)
        except REFUSED:
            return
        assert list(bundle.gallery) in (["ann", "bo", 3], [])
        assert bundle.embedder.n_features_out == 16


FUZZERS = {
    name.removeprefix("fuzz_"): function
    for name, function in list(globals().items())
    if name.startswith("fuzz_")
}
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def bounded(name, examples, **more):
    """A fuzzer that stops after so many examples."""
    limits = settings(
        max_examples=examples, deadline=None, suppress_health_check=QUIET, database=None, **more
    )
    return limits(FUZZERS[name])


def run(minutes):
    """Run all fuzzers in turn until the time is over, each with new examples."""
    end = time.monotonic() + 60 * minutes
    counts, lost = dict.fromkeys(FUZZERS, 0), []
    while time.monotonic() < end and not lost:
        for name in FUZZERS:
            try:
                bounded(name, 500, print_blob=True)()
            except Exception as error:
                lost.append(f"{name}: {type(error).__name__}: {error}")
            counts[name] += 500
    return {"examples": counts, "lost": lost}
