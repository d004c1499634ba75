"""The networks: any input size, the depths and sizes that their names promise, no window that sees its neighbours."""

import warnings
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import Compose
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from genre_cls.models.cnn import PaddedConv2d, TimeStatistics, TutorialCNN, n_parameters


@pytest.fixture(scope="module", params=["basic", "deep"])
def model(request: pytest.FixtureRequest, composed: Compose) -> nn.Module:
    torch.manual_seed(0)
    return instantiate(composed(f"model={request.param}").model, n_genres=10).eval()


@pytest.mark.parametrize(("name", "n_blocks", "n_channels"), [("tutorial_basic", 3, 32), ("tutorial_deep", 5, 64)])
@pytest.mark.parametrize("shape", [(13, 130), (128, 44), (1, 1)])
def test_the_tutorials_networks_take_their_size_from_what_they_see_first(
    composed: Compose, name: str, n_blocks: int, n_channels: int, shape: tuple[int, int]
) -> None:
    model = instantiate(composed(f"model={name}").model, n_genres=10)
    assert model(torch.randn(2, 1, *shape)).shape == (2, 10) and depth(model) == n_blocks
    n_bins, n_frames = (-(-size // 2**n_blocks) for size in shape)  # each block halves them
    assert model.dense[1].in_features == n_channels * n_bins * n_frames and model.classifier.in_features == 64


@settings(deadline=None, max_examples=20)
@given(n_bins=st.integers(1, 30), n_frames=st.integers(1, 50), seed=st.integers(0, 10**6))
def test_the_tutorials_blocks_are_what_tutorials_write_in_the_order_of_tutorials(
    n_bins: int, n_frames: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model, as_written = TutorialCNN(2, channels=[3, 4], units=5, dropout=0), []
    maps = torch.randn(4, 1, n_bins, n_frames)
    for (convolution, pooling, bias, relu, norm), n_in in zip(model.blocks, (1, 3), strict=True):
        together = nn.Conv2d(n_in, convolution.out_channels, 3, padding=1)
        together.weight, together.bias = convolution.weight, nn.Parameter(bias.bias.flatten())
        as_written += [together, relu, pooling, norm]
    assert torch.allclose(model.blocks(maps), nn.Sequential(*as_written)(maps), atol=1e-5)


def test_the_tutorials_maps_stay_in_half_the_bytes_where_it_computes_in_bfloat16() -> None:
    model = TutorialCNN(2, channels=[3, 4], units=5, dropout=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.blocks(torch.randn(2, 1, 8, 8)).dtype == torch.bfloat16


@settings(deadline=None, max_examples=60)
@given(
    n_bins=st.integers(1, 9), n_frames=st.integers(1, 4), kernel=st.sampled_from([1, 3, 5]), stride=st.integers(1, 3)
)
def test_a_convolution_that_leaves_out_padding_is_the_same_function_with_the_same_gradients(
    n_bins: int, n_frames: int, kernel: int, stride: int
) -> None:
    convolution = PaddedConv2d(2, 3, kernel, (stride, stride)).double()
    maps = torch.randn(4, 2, n_bins, n_frames, dtype=torch.float64, requires_grad=True)
    whole = nn.Conv2d.forward(convolution, maps)
    found = convolution(maps)
    towards = torch.randn_like(whole)
    gradients = [torch.autograd.grad(given, (convolution.weight, maps), towards) for given in (found, whole)]
    assert all(map(torch.allclose, (found, *gradients[0]), (whole, *gradients[1])))


class StridesToOne(TorchDispatchMode):
    """Collects convolutions with a stride along the last axis of which one value comes out: garbage with AMX."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function: Any, _: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        if function is torch.ops.aten.convolution.default and arguments[3][-1] > 1 and result.shape[-1] == 1:
            self.found.append(tuple(arguments[0].shape))
        return result


@settings(deadline=None, max_examples=40)
@given(n_bins=st.integers(1, 40), n_frames=st.integers(1, 40), seed=st.integers(0, 100))
def test_no_convolution_is_one_that_pytorch_miscomputes_in_bfloat16(
    model: nn.Module, n_bins: int, n_frames: int, seed: int
) -> None:
    windows = torch.randn(3, 1, n_bins, n_frames, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad(), StridesToOne() as strides:
        exact = model(windows)
    assert not strides.found
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = model(windows)
    assert torch.allclose(rounded.float(), exact, atol=0.1 * float(exact.abs().max()))


def depth(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.Conv2d) for layer in model.modules())


def test_basic_has_three_convolutions_and_few_weights(composed: Compose) -> None:
    basic = instantiate(composed("model=basic").model, n_genres=10)
    assert depth(basic) == 3 and n_parameters(basic) <= 200_000


def test_deep_has_five_convolutions_and_few_enough_weights_for_a_cpu(composed: Compose) -> None:
    deep = instantiate(composed("model=deep").model, n_genres=10)
    assert depth(deep) == 5 and n_parameters(deep) <= 3_000_000


@settings(deadline=None, max_examples=25)
@given(n_bins=st.integers(1, 140), n_frames=st.integers(1, 240), batch=st.integers(1, 3))
def test_any_input_becomes_one_row_of_logits_per_window(
    model: nn.Module, n_bins: int, n_frames: int, batch: int
) -> None:
    with torch.no_grad():
        logits = model(torch.randn(batch, 1, n_bins, n_frames))
    assert logits.shape == (batch, 10) and logits.isfinite().all()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), batch=st.integers(2, 6))
def test_a_windows_logits_do_not_depend_on_what_else_is_in_the_batch(model: nn.Module, seed: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    windows = torch.randn(batch, 1, 40, 60, generator=generator)
    with torch.no_grad():
        together = model(windows)
        alone = model(windows[:1])
        in_other_company = model(torch.cat([windows[:1], 100 * windows[1:]]))
    assert torch.allclose(together[:1], alone, atol=1e-5)
    assert torch.allclose(in_other_company[:1], alone, atol=1e-5)


def test_every_weight_learns(model: nn.Module) -> None:
    model.train()(torch.randn(4, 1, 40, 60)).square().sum().backward()
    model.eval()
    assert all(weights.grad is not None and weights.grad.abs().max() > 0 for weights in model.parameters())


def test_by_epochs_the_classifier_learns_from_the_last_block_alone(composed: Compose) -> None:
    model = instantiate(composed("model=basic", "model.dropout=0").model, n_genres=3).train()
    before = model.classifier.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    model(torch.randn(4, 1, 40, 60)).square().sum().backward()
    optimizer.step()
    n_early, n_last = 3 * (16 * 16 + 8 * 48), 3 * 4 * 128
    early, last = model.classifier.weight.detach().split([n_early, n_last], dim=1)
    assert not early.any() and (last != before[:, n_early:]).all()
    windows = torch.randn(4, 1, 40, 60)
    model.blocks.eval()  # so that batch normalisation does in training what it does in evaluation
    as_trained = model(windows)
    assert torch.allclose(model.eval()(windows), as_trained, atol=1e-5)


def test_a_share_of_the_last_blocks_statistics_is_dropped_in_training_alone(composed: Compose) -> None:
    model = instantiate(composed("model=basic", "model.dropout=0.25").model, n_genres=3)
    windows, seen = torch.randn(4, 1, 40, 60), []
    model.classifier.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][:, -model.n_last :]))
    model.train()(windows)
    model.eval()(windows)
    dropped, whole = ((values == 0).float().mean() for values in seen)
    assert dropped - whole == pytest.approx(0.25, abs=0.05)


def test_the_classifier_sees_the_statistics_of_every_block_scaled_by_their_number(model: nn.Module) -> None:
    windows = torch.randn(2, 1, 40, 60)
    pooled = [pool(model.blocks[: n + 1](windows)) for n, pool in enumerate(model.pools)]
    expected = torch.cat([(pooled[-1].shape[1] / each.shape[1]) ** 0.5 * each for each in pooled], dim=1)
    seen: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, arguments: seen.extend(arguments))
    model(windows)
    hook.remove()
    assert torch.allclose(seen[0], expected, atol=1e-5)


def test_low_and_high_sounds_are_distinguished(model: nn.Module) -> None:
    low = torch.zeros(1, 1, 64, 64)
    low[:, :, :16] = 3
    with torch.no_grad():
        assert not torch.allclose(model(low), model(low.flip(2)), atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(n_bands=st.integers(1, 5), n_bins=st.integers(1, 20), n_frames=st.integers(1, 50))
def test_time_statistics_are_mean_maximum_and_deviation_of_each_band(n_bands: int, n_bins: int, n_frames: int) -> None:
    maps = torch.randn(2, 3, n_bins, n_frames)
    bands = nn.functional.adaptive_avg_pool2d(maps, (n_bands, n_frames))
    expected = torch.cat([bands.mean(3), bands.amax(3), (bands.var(3, correction=0) + 1e-5).sqrt()]).view(3, 2, -1)
    statistics = TimeStatistics(n_bands)(maps)  # in whatever order
    assert torch.allclose(statistics.sort(dim=1)[0], expected.transpose(0, 1).flatten(1).sort(dim=1)[0], atol=1e-4)


def test_one_number_for_all_blocks_is_refused(composed: Compose) -> None:
    for name in ("channels", "kernel_sizes", "strides", "bands"):
        with pytest.raises(InstantiationException, match=f"{name}=4: must be a list, with a value for each block"):
            instantiate(composed("model=basic", f"model.{name}=4").model, n_genres=2)


@pytest.mark.parametrize(
    ("model", "wrong", "reason"),
    [
        ("basic", "model.channels=[16,0,8]", "channels: 0 must be a whole number, at least 1"),
        ("basic", "model.channels=[16,many,8]", "channels: many must be a whole number, at least 1"),
        ("basic", "model.kernel_sizes=[5,3,-3]", "kernel_sizes: -3 must be a whole number, at least 1"),
        ("basic", "model.kernel_sizes=[5,4,3]", "kernel_sizes: 4 must be odd"),
        ("basic", "model.strides=[2,2,2]", r"strides: 2 must be a pair, \[bins,frames\]"),
        ("basic", "model.strides=[[2,2],[2],[2,2]]", r"strides: \[2\] must be a pair"),
        ("basic", "model.strides=[[2,2],[2,0],[2,2]]", "strides: 0 must be a whole number, at least 1"),
        ("basic", "model.bands=[16,8,0]", "bands: 0 must be a whole number, at least 1"),
        ("basic", "model.channels=[]", r"channels=\[\]: must have a value for each block"),
        ("tutorial_basic", "model.channels=[]", r"channels=\[\]: must have a value for each block"),
        ("tutorial_basic", "model.channels=[32,0]", "channels: 0 must be a whole number, at least 1"),
        ("tutorial_basic", "model.units=0", "units: 0 must be a whole number, at least 1"),
    ],
)
def test_shapes_that_are_none_are_refused(composed: Compose, model: str, wrong: str, reason: str) -> None:
    with pytest.raises(InstantiationException, match=reason), warnings.catch_warnings():
        warnings.simplefilter("error")
        instantiate(composed(f"model={model}", wrong).model, n_genres=2)
