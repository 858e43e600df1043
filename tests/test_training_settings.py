"""bfloat16 is taken where it is faster, not where there are instructions for it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)

from sfpose.training import settings  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture
def fresh():
    settings.has_fast_bfloat16.cache_clear()
    yield
    settings.has_fast_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("instructions", "seconds", "fast"),
    [(True, 0.5, True), (True, 0.9, False), (True, 2.0, False), (False, 0.5, False)],
)
def test_auto_takes_what_is_faster(instructions, seconds, fast, fresh, monkeypatch):
    times = {torch.bfloat16: seconds, torch.float32: 1.0}
    monkeypatch.setattr(settings, "_product_seconds", times.__getitem__)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions, raising=False)
    linear, images = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with settings.autocast(CPU, "auto"):
        assert linear(images).dtype == (torch.bfloat16 if fast else torch.float32)


def test_cuda_is_not_timed(fresh):
    assert settings.has_fast_bfloat16(torch.device("cuda"))


def test_a_product_takes_time():
    seconds = settings._product_seconds(torch.float32)
    assert 0 < seconds < 1


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"'auto', 'float32' or 'bfloat16'; got 'half'"):
        settings.autocast(CPU, "half")
