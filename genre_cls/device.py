"""What `trainer.device` and `trainer.precision` mean on this machine, and how many models its GPU has room for."""

import torch

from genre_cls.errors import UserError

BYTES_PER_MODEL, LEAST_FEATURES = 5e9, 1e9  # of a GPU's memory, for each model that shares it and for its features


def resolve_device(setting: str) -> torch.device:
    """Return the device to train on; `auto` is a GPU if there is one.

    Args:
        setting: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        UserError: this machine has no such device.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if setting == "auto":
        gpu = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return gpu if gpu and gpu.type in present else torch.device("cpu")
    if not present[setting]:
        here = ", ".join(["auto", *(name for name, is_present in present.items() if is_present)])
        raise UserError(f"trainer.device={setting}: not on this machine, which has {here}")
    return torch.device(setting)


def resolve_precision(setting: str, device: torch.device, model: str) -> str:
    """Return the precision to compute in; `auto` is `bf16-mixed` where the hardware rightly computes with bfloat16.

    Args:
        setting: `32-true`, `bf16-mixed` or `auto`.
        device: that computes.
        model: its class, `module.Class`.
    """
    if setting != "auto":
        return setting
    if device.type == "cpu":
        # Without these instructions bfloat16 is emulated, and slower than float32.
        capabilities = torch.cpu.get_capabilities()
        good = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_tile")) and not may_miscompute(model)
    else:
        good = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if good else "32-true"


def may_miscompute(model: str) -> bool:
    """Return whether this CPU may give garbage for a model in bfloat16.

    With AMX, PyTorch 2.11 does in convolutions of which, by a stride, one frame comes out. The package's models avoid
    that (`models.PaddedConv2d`); what models of one's own compute is not known.

    Args:
        model: its class, `module.Class`.
    """
    return bool(torch.cpu.get_capabilities().get("amx_tile")) and not model.startswith("genre_cls.")


def models_that_fit(n_bytes: int) -> int:
    """Return how many models the GPU has memory for, at least one.

    Args:
        n_bytes: of the features that each of them holds.
    """
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    return max(1, int(memory / (BYTES_PER_MODEL + max(LEAST_FEATURES, n_bytes))))
