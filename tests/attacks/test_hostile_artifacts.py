"""Artifacts that were made to harm: refused before onnxruntime sees the network."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from sfpose import FaceEmbedder
from sfpose.runtime.artifact import read_artifact, read_manifest, write_artifact
from sfpose.runtime.folders import write_folder
from sfpose.runtime.inspection import OPERATORS, check_network
from sfpose.runtime.protobuf import Message
from sfpose.runtime.session import OnnxModel

onnx = pytest.importorskip("onnx", reason="hostile networks are built with onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

IMAGE = np.full((16, 16, 3), 200, np.uint8)
MANIFEST = {
    "name": "tiny",
    "kind": "descriptor",
    "network": "none",
    "input": {"size": 8, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "descriptor": {"size": 4, "normalization": "l1"},
}
WEIGHTS = np.random.default_rng(0).random((4, 3, 1, 1), dtype=np.float32)


def _network(nodes=None, tensors=None, opset=17, **graph):
    """A whole little descriptor network, or one with other nodes and tensors."""
    nodes = nodes or [
        helper.make_node("Conv", ["images", "weights"], ["maps"]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("ReduceMean", ["positive"], ["outputs"], axes=[2, 3], keepdims=0),
    ]
    tensors = tensors or [numpy_helper.from_array(WEIGHTS, "weights")]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in [("images", ["n", 3, 8, 8]), ("outputs", ["n", 4])]
    ]
    made = helper.make_graph(nodes, "tiny", values[:1], values[1:], tensors, **graph)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _bytes(model):
    return model.SerializeToString()


def _written(folder, model, **changes):
    return write_artifact(folder, model, {**MANIFEST, **changes})


def test_the_little_network_itself_is_fine(tmp_path):
    folder = _written(tmp_path / "tiny", _bytes(_network()))
    (row,) = FaceEmbedder(folder).transform([IMAGE])
    expected = np.maximum((200 / 255 - 0.5) / 0.25 * WEIGHTS.sum((1, 2, 3)), 0)
    np.testing.assert_allclose(row, expected / expected.sum(), rtol=1e-5)


@pytest.mark.parametrize("name", ["default", "landmarks"])
def test_what_ships_passes_and_the_reader_agrees_with_onnx(name):
    data = read_artifact(name).model
    check_network(data)
    expected = onnx.load_from_string(data)
    graph = Message(data).message(7)
    nodes = list(graph.messages(1))
    assert [node.text(4) for node in nodes] == [node.op_type for node in expected.graph.node]
    assert [node.texts(1) for node in nodes] == [list(node.input) for node in expected.graph.node]
    tensors = {tensor.text(8): tensor for tensor in graph.messages(5)}
    for tensor in expected.graph.initializer:
        assert tensors[tensor.name].numbers(1) == list(tensor.dims)
        assert bytes(tensors[tensor.name].data(9)) == tensor.raw_data


def _external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def _with(change):
    model = _network()
    change(model)
    return _bytes(model)


def _node(operator, *inputs, outputs=("outputs",), **attributes):
    return _bytes(_network([helper.make_node(operator, list(inputs), list(outputs), **attributes)]))


def _loop():
    body = helper.make_graph([], "body", [], [])
    node = helper.make_node("Loop", ["images"], ["outputs"], body=body)
    return _bytes(_network([node]))


def _hidden_graph():
    """A subgraph in an attribute of an operator that has none."""
    body = helper.make_graph([], "body", [], [])
    return _node("Relu", "images", body=body)


def _split_graph():
    """Protobuf merges a field that comes twice; whoever looks at one part is fooled."""
    return _bytes(_network()) + _bytes(_network(opset=17))


def _function():
    function = helper.make_function(
        "", "Relu", ["x"], ["y"], [helper.make_node("Loop", ["x"], ["y"])], []
    )
    return _with(lambda model: model.functions.append(function))


def _tensor(**changes):
    def change(model):
        for name, value in changes.items():
            if name == "dims":
                del model.graph.initializer[0].dims[:]
                model.graph.initializer[0].dims.extend(value)
            else:
                setattr(model.graph.initializer[0], name, value)

    return _with(change)


def _typed(values):
    tensor = helper.make_tensor("weights", TensorProto.FLOAT, (4, 3, 1, 1), values)
    return _bytes(_network(tensors=[tensor]))


def _resized(*scales):
    nodes, last = [], "images"
    tensors = [numpy_helper.from_array(np.array([1, 1, s, s], np.float32), f"s{s}") for s in scales]
    for number, scale in enumerate(scales):
        nodes.append(helper.make_node("Resize", [last, "", f"s{scale}"], [f"r{number}"]))
        last = f"r{number}"
    nodes.append(helper.make_node("ReduceMean", [last], ["outputs"], axes=[2, 3], keepdims=0))
    return _bytes(_network(nodes, tensors))


HOSTILE = {
    "external data": (lambda: _with(_external), "lies in another file"),
    "external place, own data": (lambda: _tensor(data_location=1), "lies in another file"),
    "another domain": (
        lambda: _node("Relu", "images", domain="com.evil"),
        r"image networks; got 'com\.evil\.Relu'",
    ),
    "another operator": (lambda: _node("NonZero", "images"), "image networks; got 'NonZero'"),
    "random numbers": (lambda: _node("RandomNormal", shape=[10**6] * 3), "got 'RandomNormal'"),
    "a size from a number": (lambda: _node("ConstantOfShape", "x"), "got 'ConstantOfShape'"),
    "a loop": (_loop, "got 'Loop'"),
    "a hidden subgraph": (_hidden_graph, "must hold no graph"),
    "a function": (_function, "no functions"),
    "two graphs in one": (_split_graph, "field 7 must stand once"),
    "an old opset": (lambda: _bytes(_network(opset=6)), "opset must be 9 to 24; got"),
    "a future opset": (lambda: _bytes(_network(opset=999)), "opset must be 9 to 24; got"),
    "no opset": (lambda: _with(lambda m: m.ClearField("opset_import")), "got none"),
    "a tensor larger than its data": (lambda: _tensor(dims=[2**31, 2**31]), "must not have"),
    "a tensor whose size overflows": (lambda: _tensor(dims=[2**62, 4]), "must not have"),
    "a tensor of negative size": (lambda: _tensor(dims=[-4, -3]), "must not be negative"),
    "a tensor of text": (lambda: _tensor(data_type=TensorProto.STRING), "plain numbers"),
    "values given twice": (
        lambda: _with(lambda m: m.graph.initializer[0].float_data.append(1)),
        "state its values once",
    ),
    "too few listed values": (
        lambda: _tensor(raw_data=b"", dims=[4, 3, 1, 1]),
        "must not have",
    ),
    "NaN": (lambda: _tensor(raw_data=b"\xff" * 48), "weights must be finite; 'weights' holds"),
    "infinity in listed values": (lambda: _typed([np.inf] + [1] * 11), "must be finite"),
    "NaN in a constant": (
        lambda: _bytes(
            _network(
                [
                    helper.make_node(
                        "Constant",
                        [],
                        ["outputs"],
                        value=numpy_helper.from_array(np.array([np.nan], np.float32)),
                    )
                ]
            )
        ),
        "must be finite",
    ),
    "one name for two tensors": (
        lambda: _with(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
        "'weights' comes twice",
    ),
    "one name for two results": (
        lambda: _with(lambda m: m.graph.node.append(m.graph.node[0])),
        "'maps' comes twice",
    ),
    "a result that replaces a tensor": (
        lambda: _with(lambda m: m.graph.node[0].output.__setitem__(0, "weights")),
        "'weights' comes twice",
    ),
    "sparse tensors": (
        lambda: _with(lambda m: m.graph.sparse_initializer.add()),
        "no sparse tensors",
    ),
    "two inputs": (
        lambda: _with(
            lambda m: m.graph.input.append(
                helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])
            )
        ),
        "one input and one output; got 2 and 1",
    ),
    "two outputs": (
        lambda: _with(lambda m: m.graph.output.append(m.graph.output[0])),
        "one input and one output; got 1 and 2",
    ),
    "enormous padding": (
        lambda: _node("Conv", "images", "weights", pads=[2**31] * 4),
        "pads of Conv must be 0 to 512",
    ),
    "enormous kernels": (
        lambda: _node("MaxPool", "images", kernel_shape=[10**9, 10**9]),
        "kernel_shape of MaxPool must be 0 to 512",
    ),
    "an enormous enlargement": (lambda: _resized(1000), "enlarge at most 16 times"),
    "many enlargements": (lambda: _resized(4, 3, 2), "enlarge at most 16 times"),
    "an enlargement from elsewhere": (
        lambda: _node("Resize", "images", "", "images"),
        "scales that stand in the file",
    ),
    "too many nodes": (
        lambda: _bytes(
            _network([helper.make_node("Relu", ["images"], [f"r{n}"]) for n in range(10_001)])
        ),
        "at most 10000 nodes",
    ),
    "no graph": (lambda: b"\x08\x08", "got none|no graph"),
    "nothing": (lambda: b"", "got none|no graph"),
    "half a file": (lambda: _bytes(_network())[:-20], "where .* are"),
    "onnxruntime's own format": (lambda: b"\x28\0\0\0ORTM" + b"\0" * 99, "must be an ONNX file"),
    "text": (lambda: b"#!/bin/sh\nrm -rf /\n", "must be an ONNX file"),
    "a pickle": (lambda: b"\x80\x04cos\nsystem\n(S'id'\ntR.", "must be an ONNX file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_networks_are_refused_before_a_session_is_made(kind, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("onnxruntime was given a hostile network")

    make, message = HOSTILE[kind]
    data = make()
    folder = _written(tmp_path / "hostile", data)
    monkeypatch.setattr("onnxruntime.InferenceSession", never)
    with pytest.raises(ValueError, match=message) as raised:
        FaceEmbedder(folder).transform([IMAGE])
    assert "the network must be an ONNX file that onnxruntime can load" in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hostile"]


def test_damage_where_the_check_does_not_look_is_refused_by_onnxruntime():
    """Found by the fuzzer: the metadata of a node, which no other check reads, is no message."""

    def field(number, data):
        return bytes([number << 3 | 2, len(data)]) + data

    model = _network()
    node = model.graph.node[0].SerializeToString() + field(9, b"\xff")
    del model.graph.node[0]
    model.graph.ClearField("name")
    graph = field(1, node) + model.graph.SerializeToString()
    model.ClearField("graph")
    data = model.SerializeToString() + bytes([7 << 3 | 2]) + _varint(len(graph)) + graph
    check_network(data)
    with pytest.raises(ValueError, match="an ONNX file that onnxruntime can load"):
        OnnxModel(data).run(np.zeros((1, 3, 8, 8), np.float32))


def _varint(number):
    assert 128 <= number < 2**14
    return bytes([number & 127 | 128, number >> 7])


def test_operators_of_all_networks_of_the_library_are_allowed():
    """Exported here only where torch is; the list itself is of standard operators."""
    schemas = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert schemas >= OPERATORS
    looping = {"If", "Loop", "Scan", "SequenceMap", "Bernoulli", "Expand", "Tile", "Pad"}
    assert not OPERATORS & looping


def test_networks_that_answer_otherwise_than_their_manifest_are_refused(tmp_path):
    for name, changes, message in [
        ("wide", {"descriptor": {"size": 5, "normalization": "l1"}}, "must give 5 values an image"),
        ("large", {"input": {**MANIFEST["input"], "size": 9}}, "must answer a batch of shape"),
    ]:
        folder = _written(tmp_path / name, _bytes(_network()), **changes)
        with pytest.raises(ValueError, match=message):
            FaceEmbedder(folder).transform([IMAGE])
    negative = [numpy_helper.from_array(-WEIGHTS, "weights")]
    nodes = [
        helper.make_node("Conv", ["images", "weights"], ["maps"]),
        helper.make_node("ReduceMean", ["maps"], ["outputs"], axes=[2, 3], keepdims=0),
    ]
    folder = _written(tmp_path / "negative", _bytes(_network(nodes, negative)))
    with pytest.raises(ValueError, match="must give finite values >= 0"):
        FaceEmbedder(folder).transform([IMAGE])
    overflowing = [numpy_helper.from_array(np.full_like(WEIGHTS, 3e38), "weights")]
    folder = _written(tmp_path / "infinite", _bytes(_network(tensors=overflowing)))
    with pytest.raises(ValueError, match="must give finite values >= 0"):
        FaceEmbedder(folder).transform([IMAGE])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": {"size": 10**9, "mean": [0] * 3, "std": [1] * 3}}, "input size must be"),
        ({"input": {"size": "8", "mean": [0] * 3, "std": [1] * 3}}, "input size must be"),
        ({"input": {"size": True, "mean": [0] * 3, "std": [1] * 3}}, "input size must be"),
        ({"input": {"size": 8, "mean": [0] * 2, "std": [1] * 3}}, "mean and std must be three"),
        ({"input": {"size": 8, "mean": [0] * 3, "std": [1, 0, 1]}}, "std positive"),
        ({"input": {"size": 8, "mean": [0] * 3}}, "mean and std must be three"),
        ({"input": []}, "must have a table 'input'"),
        ({"descriptor": {"size": -1, "normalization": "l1"}}, "descriptor size must be"),
        ({"descriptor": {"normalization": "l1"}}, "descriptor size must be"),
        ({"descriptor": {"size": 4, "normalization": ["l1"]}}, "normalization must be one of"),
        *(
            (
                {"descriptor": {"size": 4, "normalization": "l1", "less_mean": bad}},
                "less_mean must be",
            )
            for bad in (1, -0.1, True, "half", None)
        ),
    ],
)
def test_manifests_that_make_no_sense_are_refused(tmp_path, changes, message):
    folder = _written(tmp_path / "odd", _bytes(_network()), **changes)
    with pytest.raises(ValueError, match=message):
        FaceEmbedder(folder).transform([IMAGE])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "sfpose-artifact", "format": "sfpose-artifact"}', "a key comes twice"),
        ('{"a": NaN}', "numbers must be finite; got NaN"),
        ('{"a": -Infinity}', "numbers must be finite"),
        ("[" * 100_000, "must be JSON"),
        ("\ud800".encode("utf-8", "surrogatepass"), "must be JSON"),
        ('{"format": "sfpose-artifact", "format_version": true}', "format_version must be"),
        ('{"format": "sfpose-artifact", "format_version": 0}', "format_version must be"),
        ("[]", "must state format"),
        ("null", "must state format"),
        ("1" * 5000, "must"),
        (" " * (2**20 + 1), "at most 1048576 bytes"),
    ],
)
def test_manifests_that_are_no_table_are_refused(tmp_path, text, message):
    folder = _written(tmp_path / "odd", _bytes(_network()))
    (folder / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (read_manifest, read_artifact):
        with pytest.raises(ValueError, match=message):
            read(folder)


def _stated(folder, files):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": files}))


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        {},
        {"model.onnx": None},
        {"model.onnx": {"sha256": None}},
        {"model.onnx": {"sha256": "0" * 64}},
        {"../../../etc/passwd": {"sha256": "0" * 64}},
    ],
)
def test_a_digest_that_is_missing_or_of_another_file_is_refused(tmp_path, files):
    folder = _written(tmp_path / "odd", _bytes(_network()))
    _stated(folder, files)
    with pytest.raises(ValueError, match="must have the sha256 that"):
        read_artifact(folder)


def test_one_changed_bit_is_found(tmp_path):
    folder = _written(tmp_path / "tiny", _bytes(_network()))
    data = bytearray((folder / "model.onnx").read_bytes())
    for place in range(0, len(data), 7):
        data[place] ^= 1
        (folder / "model.onnx").write_bytes(data)
        with pytest.raises(ValueError, match="changed or damaged"):
            read_artifact(folder)
        data[place] ^= 1


def test_names_in_a_manifest_open_no_other_file(tmp_path):
    """Whatever the manifest lists, two files are read and no more."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    folder = _written(tmp_path / "tiny", _bytes(_network()))
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    _stated(folder, {"model.onnx": {"sha256": digest}, "../secret": {"sha256": "0"}})
    assert read_artifact(folder).digest == digest


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_symbolic_links_are_refused(tmp_path, name):
    folder = _written(tmp_path / "tiny", _bytes(_network()))
    shutil.move(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match="symbolic link"):
        read_artifact(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="symbolic link"):
        read_artifact(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match="must be an ordinary file"):
        read_artifact(folder)


def _zip(path, entries, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


@pytest.fixture
def parts(tmp_path):
    folder = _written(tmp_path / "tiny", _bytes(_network()))
    return [(name, (folder / name).read_bytes()) for name in ("model.onnx", "manifest.json")]


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "..", "folder\\..\\evil", "./../evil"]
)
def test_names_that_leave_a_zip_are_refused(tmp_path, parts, name):
    path = _zip(tmp_path / "evil.zip", [*parts, (name, b"x")])
    with pytest.raises(ValueError, match="names in a zip file must lie below it"):
        read_artifact(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "card.md"])
def test_names_that_come_twice_in_a_zip_are_refused(tmp_path, parts, name):
    path = _zip(tmp_path / "twice.zip", [*parts, (name, b"x"), (name, b"y")])
    with pytest.raises(ValueError, match="names in a zip file must differ"):
        read_artifact(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, parts, compression):
    path = _zip(tmp_path / "other.zip", parts, compression=compression)
    with pytest.raises(ValueError, match="must be stored or deflated"):
        read_artifact(path)


def test_damaged_zip_files_are_refused(tmp_path, parts):
    path = _zip(tmp_path / "whole.zip", parts, compression=zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    expected = read_artifact(path).digest
    for place in range(0, len(data), 11):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            assert read_artifact(path).digest == expected
        except ValueError as error:
            assert "must" in str(error)  # noqa: PT017


def _with_stated_size(path, size):
    """The size of the first entry as the directory of the zip states it, changed."""
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", size)
    path.write_bytes(data)


def test_zip_bombs_are_refused_in_little_memory(tmp_path, parts):
    """One that states its size, and one that says it were small."""
    program = """
import resource, sys
from sfpose.runtime.artifact import read_artifact
for path, message in [(sys.argv[1], "must have at most 536870912"), (sys.argv[2], "whole zip")]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_artifact(path)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise SystemExit("not refused")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    entries = [("model.onnx", bytes(60 * 2**20)), parts[1]]
    paths = [
        _zip(tmp_path / name, entries, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
        for name in ("large.zip", "small.zip")
    ]
    _with_stated_size(paths[0], 600 * 2**20)
    _with_stated_size(paths[1], 100)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert max(map(int, done.stdout.split())) < 20_000  # kilobytes


def test_a_zip_with_a_thousand_and_one_entries_is_refused(tmp_path, parts):
    path = _zip(tmp_path / "many.zip", parts + [(f"{n}", b"") for n in range(1000)])
    with pytest.raises(ValueError, match="at most 1000 entries"):
        read_artifact(path)


def test_encrypted_zip_files_are_refused(tmp_path, parts):
    path = _zip(tmp_path / "secret.zip", parts)
    data = path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="must be a whole zip file"):
        read_artifact(path)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", "..", "c:evil", "a\\b", "x\0"])
def test_files_are_written_below_their_folder_only(tmp_path, name):
    with pytest.raises(ValueError, match="files must have plain names"):
        write_folder(tmp_path / "out", {name: b""}, overwrite=False, marker="manifest.json")
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_cannot_be_read_back_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_artifact(tmp_path / "out", b"", {**MANIFEST, "calibration": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_session_is_never_made_of_another_format(monkeypatch):
    """The checks read ONNX; onnxruntime must not take the bytes for something else."""
    import onnxruntime

    seen = []
    whole = onnxruntime.InferenceSession

    def spy(model, options, **more):
        seen.append(options.get_session_config_entry("session.load_model_format"))
        return whole(model, options, **more)

    monkeypatch.setattr("onnxruntime.InferenceSession", spy)
    OnnxModel(_bytes(_network())).run(np.zeros((1, 3, 8, 8), np.float32))
    assert seen == ["ONNX"]
