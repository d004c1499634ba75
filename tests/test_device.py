"""Devices: a GPU that can be used, bfloat16 where the hardware rightly computes with it."""

from types import SimpleNamespace

import pytest
import torch

from genre_cls.errors import UserError
from genre_cls.processes.device import may_miscompute, models_that_fit, resolve_device, resolve_precision

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


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_takes_bfloat16_if_it_has_it_rather_than_emulates_it(
    monkeypatch: pytest.MonkeyPatch, has: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has)
    assert resolve_precision("auto", torch.device("cuda"), OWN) == expected


def has_gpu(monkeypatch: pytest.MonkeyPatch, *capability: int) -> None:
    built_for = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_100f", "compute_120"]  # all kinds of code
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")


@pytest.mark.parametrize("capability", [(7, 5), (8, 9), (9, 0), (10, 3), (12, 0), (13, 0)])
def test_a_gpu_is_taken_unless_the_cpu_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    has_gpu(monkeypatch, *capability)
    assert [resolve_device(setting).type for setting in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


def test_one_of_amd_is_taken_whatever_its_code_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpu(monkeypatch, 9, 4)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["gfx90a", "gfx942"])
    assert resolve_device("auto").type == "cuda"


@pytest.mark.parametrize("capability", [(3, 5), (6, 1), (7, 0), (11, 0)])
def test_a_gpu_that_pytorch_was_not_built_for_is_left_and_refused(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    has_gpu(monkeypatch, *capability)
    assert resolve_device("auto") == CPU == resolve_device("cpu")
    with pytest.raises(UserError, match=r"trainer.device=cuda: PyTorch .* was not built for a GPU; auto or cpu"):
        resolve_device("cuda")


def test_where_there_is_no_gpu_the_cpu_is_taken_and_a_gpu_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU == resolve_device("cpu")
    with pytest.raises(UserError, match=r"trainer\.device=cuda: PyTorch finds none on this machine"):
        resolve_device("cuda")


def test_a_gpu_holds_as_many_models_with_their_features_as_it_has_memory_for_and_one_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80e9))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [models_that_fit(int(gigabytes * 1e9)) for gigabytes in (0, 1, 3, 15, 1000)] == [13, 13, 10, 4, 1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models_that_fit(0) == 1
