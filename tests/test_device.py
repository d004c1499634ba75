"""Precision: bfloat16 where the hardware computes with it, and where it computes rightly."""

import pytest
import torch

from genre_cls.device import may_miscompute, resolve_precision

CPU = torch.device("cpu")
OURS, OWN = "genre_cls.models.GenreCNN", "mine.CNN"


@pytest.mark.parametrize(
    ("has", "of_ours", "of_own"),
    [
        ((), "32-true", "32-true"),
        (("avx512_bf16",), "bf16-mixed", "bf16-mixed"),
        (("avx512_bf16", "amx_tile"), "bf16-mixed", "32-true"),
        (("amx_tile",), "bf16-mixed", "32-true"),
    ],
)
def test_a_cpu_takes_bfloat16_if_it_has_it_and_with_amx_for_the_packages_models_only(
    monkeypatch: pytest.MonkeyPatch, has: tuple[str, ...], of_ours: str, of_own: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True))
    assert resolve_precision("auto", CPU, OURS) == of_ours and resolve_precision("auto", CPU, OWN) == of_own
    assert not may_miscompute(OURS) and may_miscompute(OWN) == ("amx_tile" in has)


@pytest.mark.parametrize("setting", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("model", [OURS, OWN])
def test_a_precision_that_is_asked_for_is_taken(setting: str, model: str) -> None:
    assert resolve_precision(setting, CPU, model) == setting
