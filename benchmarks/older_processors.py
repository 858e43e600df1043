"""Do older processors give the same descriptors? onnxruntime without AVX-512, on any x86 machine.

    python benchmarks/older_processors.py CFP [--sface SFACE.onnx] [--json FILE]

onnxruntime asks the processor what it can and takes other code for networks in eight bits where
instructions are missing; that of AVX2 alone adds pairs of products in sixteen bits, where they may
saturate. gdb runs a child process and takes AVX-512, AVX-VNNI and AMX out of what the processor
answers (gdb and objdump needed). Printed are the chi-square distances of descriptors of the same
crops, beside the threshold for FMR 0.1 %, and times over SFace's there.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from speed import descriptor_networks, face_of_sface, median_seconds

from sfpose import FaceAligner, FaceEmbedder
from sfpose._scoring import chi2_pairs
from sfpose.decision import shipped_rule
from sfpose.preprocessing import as_network_input
from sfpose.protocols import CFP
from sfpose.runtime.session import OnnxModel, load_onnxruntime

# Bits of leaf 7, by subleaf: AVX-512 and its extensions, AVX-VNNI, AMX, AVX-VNNI-INT8 and -INT16.
HIDE = """
import gdb, json
sites, name = json.load(open({sites!r}))
masks = {{
    0: {{
        "rbx": (16, 17, 21, 26, 27, 28, 30, 31),
        "rcx": (1, 6, 11, 12, 14),
        "rdx": (2, 3, 8, 22, 23, 24, 25),
    }},
    1: {{"rax": (4, 5, 21, 23), "rdx": (4, 5, 10)}},
}}
for setting in ("pagination off", "confirm off"):
    gdb.execute("set " + setting)
gdb.execute("catch load " + name)
gdb.execute("run", to_string=True)
maps = open(f"/proc/{{gdb.selected_inferior().pid}}/maps").read().splitlines()
base = int(next(line for line in maps if name in line).split("-")[0], 16)
gdb.execute("delete")
for site in sites:
    gdb.Breakpoint(f"*{{base + site}}")
value = lambda register: int(gdb.parse_and_eval("$" + register)) & 0xFFFFFFFF
while True:
    gdb.execute("continue", to_string=True)
    if not gdb.selected_inferior().pid:
        break
    leaf, subleaf = value("rax"), value("rcx")
    gdb.execute("stepi", to_string=True)
    if leaf == 7:
        for register, bits in masks.get(subleaf, {{}}).items():
            hidden = sum(1 << bit for bit in bits)
            gdb.execute(f"set ${{register}} = {{value(register) & ~hidden}}")
"""


def aligned(path):
    """A few hundred crops of CFP people 101 to 250, by the side that networks take."""
    images = CFP(path, people=range(101, 251)).images
    chosen = [images[n] for n in range(0, len(images), 7)]
    sizes = {artifact.network_input.size for artifact in descriptor_networks().values()}
    return {
        str(size): FaceAligner(size=size, policy="skip", n_jobs=2).align(chosen).images
        for size in sizes
    }


def answer(crops, out, sface):
    """Descriptors of stored crops by every shipped network, and times of one image."""
    with np.load(crops) as stored:
        crops = {int(size): stored[size] for size in stored.files}
    found, peer = {}, np.nan
    if sface:
        model = OnnxModel(Path(sface).read_bytes(), 1)
        image = face_of_sface()
        peer = median_seconds(lambda: model.run(image), 15)
    for name, artifact in descriptor_networks().items():
        model, asked = OnnxModel(artifact.model, 1), artifact.network_input
        image = as_network_input(crops[asked.size][:1], asked.mean, asked.std)
        found[name] = FaceEmbedder(name, align="done").transform(crops[asked.size])
        found[f"{name} time"] = median_seconds(lambda m=model, i=image: m.run(i), 15) / peer
    np.savez(out, **found)


def cpuid_sites(library):
    """Addresses in a shared library at which the processor is asked."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", library], check=True, capture_output=True, text=True
    ).stdout
    return [int(found, 16) for found in re.findall(r"^\s*([0-9a-f]+):\s+cpuid", listing, re.M)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cfp", type=Path)
    parser.add_argument("--sface", default="", help="the network to give times over")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--answer", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer(options.cfp, options.answer, options.sface)
        return
    package = Path(str(load_onnxruntime().__file__)).parent
    (library,) = package.glob("capi/onnxruntime_pybind11_state*.so")
    crops = aligned(options.cfp)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        np.savez(work / "crops.npz", **crops)
        child = [sys.executable, __file__, str(work / "crops.npz"), "--sface", options.sface]
        child += ["--answer"]
        subprocess.run([*child, str(work / "here.npz")], check=True)
        (work / "sites.json").write_text(json.dumps([cpuid_sites(library), library.name]))
        (work / "hide.py").write_text(HIDE.format(sites=str(work / "sites.json")))
        command = ["gdb", "-batch", "-x", str(work / "hide.py"), "--args", *child]
        subprocess.run([*command, str(work / "older.npz")], check=True, stdout=subprocess.DEVNULL)
        with np.load(work / "here.npz") as here, np.load(work / "older.npz") as older:
            results = {}
            for name in descriptor_networks():
                apart = chi2_pairs(here[name], older[name])
                results[name] = {
                    "images": len(apart),
                    "median chi-square": float(np.median(apart)),
                    "largest": float(apart.max()),
                    "threshold for FMR 0.1 %": shipped_rule(name, 1e-3).threshold,
                    "share of SFace's time here": float(here[f"{name} time"]),
                    "share of SFace's time without AVX-512": float(older[f"{name} time"]),
                }
    for name, row in results.items():
        print(f"{name:12s}", ", ".join(f"{told} {value:.3g}" for told, value in row.items()))
    if options.json:
        Path(options.json).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
