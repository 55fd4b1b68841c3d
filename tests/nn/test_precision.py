"""Reduced precision: what the chip is asked, what is switched, and that everything is switched back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from recsys.nn import precision
from recsys.nn.precision import bf16_is_fast, recurrent_autocast, reduced_matmul


@pytest.fixture(autouse=True)
def _asked_afresh() -> Iterator[None]:
    bf16_is_fast.cache_clear()
    yield
    bf16_is_fast.cache_clear()


def settings() -> tuple[str, str]:
    return torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("chip", "fast"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True}, False), (None, False)],
)
def test_either_instruction_set_makes_bfloat16_fast(
    chip: dict[str, bool] | None, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chip is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: chip, raising=False)
    assert bf16_is_fast() is fast


@pytest.mark.parametrize(("asked", "fast", "on"), [(True, False, True), (False, True, False), (None, True, True)])
def test_it_switches_where_it_is_asked_to_and_back_again(
    asked: bool | None, fast: bool, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_is_fast", lambda: fast)
    before = settings()
    found = []

    def fail_inside() -> None:
        with reduced_matmul(asked):
            found.append(settings())
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert found == [("bf16", "tf32") if on else before]
    assert settings() == before


def test_left_alone_where_the_chip_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bf16_is_fast", lambda: False)
    before = settings()
    with reduced_matmul():
        assert settings() == before


@pytest.mark.parametrize(
    ("enabled", "device", "fast", "on"),
    [(True, "cpu", True, True), (False, "cpu", True, False), (True, "meta", True, False), (True, "cpu", False, False)],
)
def test_a_recurrence_is_cast_on_a_fast_cpu_alone(
    enabled: bool, device: str, fast: bool, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_is_fast", lambda: fast)
    x = torch.randn(4, 4)
    with recurrent_autocast(enabled, torch.device(device)):
        assert (x @ x).dtype == (torch.bfloat16 if on else torch.float32)
    assert (x @ x).dtype == torch.float32
