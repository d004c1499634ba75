"""What `trainer.device` and `trainer.precision` mean on this machine, and what of it can be used."""

import torch

from genre_cls.errors import UserError

BYTES_PER_MODEL, LEAST_FEATURES = 5e9, 1e9  # of a GPU's memory, for each model that shares it and for its features


def resolve_device(setting: str) -> torch.device:
    """Return the device to train on; `auto` is an NVIDIA GPU if there is one that can be used.

    Args:
        setting: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: `cuda` cannot be used.
    """
    if setting == "cpu":
        return torch.device("cpu")
    reason = _why_no_gpu()
    if reason and setting == "cuda":
        raise UserError(f"trainer.device=cuda: {reason}; auto or cpu trains on the CPU")
    return torch.device("cpu" if reason else "cuda")


def _why_no_gpu() -> str:
    """Why no GPU of this machine can be used; empty if one can."""
    if not torch.cuda.is_available():
        return "PyTorch finds none on this machine; it must be built for CUDA, and NVIDIA's driver new enough"
    # `is_available` does not see that PyPI's PyTorch has no code for some, such as what is older than Turing (2018).
    codes = [name for name in torch.cuda.get_arch_list() if name.startswith(("sm_", "compute_"))]  # AMD's have others
    if not codes or any(_runs(code, *torch.cuda.get_device_capability()) for code in codes):
        return ""
    return f"PyTorch {torch.__version__} was not built for {torch.cuda.get_device_name()}"


def _runs(code: str, major: int, minor: int) -> bool:
    """Whether a GPU of a compute capability runs code such as sm_90a, of its own major version, or compute_80."""
    kind, _, number = code.partition("_")
    built = divmod(int(number.rstrip("af")), 10)
    return built <= (major, minor) and (kind == "compute" or built[0] == major)


def resolve_precision(setting: str, device: torch.device, model: str) -> str:
    """Return the precision to compute in; `auto` is `bf16-mixed` where that is fast and computed correctly.

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
    that (`cnn.PaddedConv2d`); what models of one's own compute is not known.

    Args:
        model: its class, `module.Class`.
    """
    return bool(torch.cpu.get_capabilities().get("amx_tile")) and not is_ours(model)


def is_ours(model: str) -> bool:
    """Return whether a model is the package's, which avoids what PyTorch is known to compute wrongly.

    Args:
        model: its class, `module.Class`, or the module that defines it.
    """
    return model.startswith("genre_cls.")


def models_that_fit(n_bytes: int) -> int:
    """Return how many models the GPU has memory for, at least one.

    Args:
        n_bytes: of the features that each of them holds.
    """
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    return max(1, int(memory / (BYTES_PER_MODEL + max(LEAST_FEATURES, n_bytes))))
