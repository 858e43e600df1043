"""The fuzzers for a bounded number of examples; longer by benchmarks/reliability.py fuzz."""

import importlib.util
import sys
import warnings
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("fuzzers", Path(__file__).with_name("fuzzers.py"))
fuzzers = importlib.util.module_from_spec(spec)
sys.modules["fuzzers"] = fuzzers
spec.loader.exec_module(fuzzers)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzzers.FUZZERS)
def test_what_is_damaged_gives_a_right_answer_or_a_reason(name):
    if name == "networks":
        pytest.importorskip("onnx", reason="the peer that parses what passes")
    # Pillow warns of what it finds in damaged files: no concern of the library.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuzzers.bounded(name, 150)()
