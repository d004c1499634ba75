"""The last layer, fitted again in closed form: against scikit-learn, what it may change, and what it may learn from."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from shared import fold_data
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, one_hot
from torch.nn.utils.parametrizations import weight_norm

from genre_cls.errors import DivergenceError
from genre_cls.models.kernel import LOGIT_SCALE
from genre_cls.tracks.folds import Fold
from genre_cls.training import refit as module
from genre_cls.training.building import check_buildable
from genre_cls.training.data import FoldData, Windows
from genre_cls.training.refit import WIDEST, _gram, output_layer, refit, ridge_regression

N_BINS, N_GENRES = 12, 3
LABELS = np.tile([0, 1, 2, 1], 4)
FOLD = Fold(0, np.arange(2, 10), np.arange(10, 14), np.array([0, 1, 14, 15]))
KNOWN = np.arange(2, 14)
SOME = torch.randn(16, 1, N_BINS, 8, generator=torch.Generator().manual_seed(0))  # windows


def means(features: Tensor) -> Tensor:
    return features.float().mean(dim=3).flatten(1)


class Model(nn.Module):
    """Some layers after the means of the bins over time."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(means(features))


class Cosine(nn.Linear):
    """A linear layer of normalised weights."""

    def forward(self, values: Tensor) -> Tensor:
        return linear(values, normalize(self.weight), self.bias)


class InHalves(Model):
    """Classifies each half of a batch by itself."""

    def forward(self, features: Tensor) -> Tensor:
        values = means(features)
        return torch.cat([self.layers(half) for half in values.flip(0).chunk(2)]).flip(0)


class ByKeyword(Model):
    """Names the argument of its layer."""

    def forward(self, features: Tensor) -> Tensor:
        return self.layers[0](input=means(features))


class Twice(Model):
    """Classifies something else, too."""

    def forward(self, features: Tensor) -> Tensor:
        self.layers(-means(features))
        return super().forward(features)


class InPlace(Model):
    """Overwrites what it has classified."""

    def forward(self, features: Tensor) -> Tensor:
        values = means(features)
        logits = self.layers(values)
        values.zero_()
        return logits


def clips(seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(2, 1 + np.arange(N_BINS)[:, None], (N_BINS, 20)) for _ in LABELS]


def predict(model: nn.Module) -> Callable[[Windows], Tensor]:
    @torch.inference_mode()
    def logits(windows: Windows) -> Tensor:
        return torch.cat([model.eval()(features) for features, _ in windows])

    return logits


def refitted(data: FoldData, *layers: nn.Module, ridge: float = 0.3) -> tuple[Model, dict[str, Tensor]]:
    """A model after its output layer was fitted, and its weights before."""
    torch.manual_seed(0)
    model = Model(*layers)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layer = output_layer(model, SOME)
    assert layer
    refit(layer, predict(model), data, ridge)
    return model, before


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 10))
@example(0, 7, 7, 0.3)
def test_the_regression_is_scikit_learns(seed: int, n_windows: int, n_inputs: int, ridge: float) -> None:
    random = np.random.default_rng(seed)
    inputs, targets = random.normal(size=(n_windows, n_inputs)), random.normal(size=(n_windows, N_GENRES))
    expected = Ridge(n_windows * ridge, fit_intercept=False).fit(inputs, targets).coef_.T
    assert np.allclose(ridge_regression(torch.tensor(inputs), torch.tensor(targets), ridge), expected, atol=1e-9)


@pytest.mark.parametrize(("n_windows", "n_inputs"), [(4, 9), (9, 4)])
def test_the_system_that_is_solved_is_of_windows_or_inputs_whichever_are_fewer(
    n_windows: int, n_inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(module, "solved", lambda matrix, right, _: sizes.append(len(matrix)) or right)
    ridge_regression(torch.randn(n_windows, n_inputs), torch.randn(n_windows, N_GENRES), 0.3)
    assert sizes == [4]


def test_products_are_stored_by_columns_so_that_solving_need_not_copy_them() -> None:
    assert _gram(torch.randn(20, 3)).T.is_contiguous()


@settings(deadline=None, max_examples=15)
@given(st.floats(0.01, 10), st.floats(0.01, 100), st.floats(-10, 10))
def test_the_layer_gives_the_regressions_outputs_as_logits_that_sum_to_zero(
    ridge: float, factor: float, shift: float
) -> None:
    data = fold_data([factor * (clip + shift) for clip in clips()], LABELS, FOLD)
    model, _ = refitted(data, nn.Linear(N_BINS, N_GENRES), ridge=ridge)
    windows = data.training_windows(1000)
    inputs = torch.cat([means(features) for features, _ in windows]).double().numpy()
    penalty = len(inputs) * ridge * inputs.var(axis=0).mean()
    expected = Ridge(penalty).fit(inputs, one_hot(windows.labels, N_GENRES)).predict(inputs) - 1 / N_GENRES
    logits = predict(model)(windows).double().numpy()
    assert np.allclose(logits, LOGIT_SCALE * expected, atol=2e-3)
    assert np.allclose(logits.sum(axis=1), 0, atol=2e-3)


def test_only_the_last_layer_changes() -> None:
    data = fold_data(clips(), LABELS, FOLD)
    model, before = refitted(data, nn.Linear(N_BINS, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, N_GENRES))
    changed = {name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {"layers.3.weight", "layers.3.bias"}


LAST = nn.Linear(N_BINS, N_GENRES)
HOOKED = nn.Linear(N_BINS, N_GENRES)
HOOKED.register_forward_hook(lambda _, __, output: -output)
SHARED = nn.Linear(N_BINS, N_BINS)


@pytest.mark.parametrize(
    "model",
    [
        Model(LAST, nn.LogSoftmax(dim=1)),
        Model(LAST, nn.ReLU(inplace=True)),
        Model(HOOKED),
        Model(nn.Linear(N_BINS, N_GENRES, bias=False)),
        Model(weight_norm(nn.Linear(N_BINS, N_GENRES))),
        Model(Cosine(N_BINS, N_GENRES)),
        Model(nn.Linear(N_BINS, N_GENRES).requires_grad_(False)),
        Model(SHARED, SHARED),
        Model(nn.Linear(N_BINS, WIDEST + 1), nn.Linear(WIDEST + 1, N_GENRES)),
        Model(nn.Unflatten(1, (1, N_BINS)), nn.Conv1d(1, N_GENRES, N_BINS), nn.Flatten()),
        Model(nn.Unflatten(1, (3, 4)), nn.Linear(4, N_GENRES), nn.AvgPool2d((3, 1)), nn.Flatten()),
        InHalves(LAST),
    ],
    ids=[
        "a softmax", "in place", "hooked", "no bias", "weight norm", "cosine", "frozen", "shared", "wide",
        "convolution", "several a window", "in halves",
    ],
)  # fmt: skip
def test_a_model_that_ends_in_anything_else_has_no_output_layer(model: Model) -> None:
    assert output_layer(model, SOME) is None


def test_a_layer_of_doubles_is_left() -> None:
    model = Model(nn.Linear(N_BINS, 5), nn.Linear(5, N_GENRES)).double()
    model.forward = lambda features: model.layers(features.double().mean(dim=3).flatten(1))  # type: ignore[method-assign]
    assert output_layer(model, SOME) is None


@pytest.mark.parametrize("model", [ByKeyword(LAST), InPlace(LAST)])
def test_a_layers_inputs_are_recorded_as_it_was_given_them(model: Model) -> None:
    assert output_layer(model, SOME) is LAST
    data, plain = fold_data(clips(), LABELS, FOLD), Model(nn.Linear(N_BINS, N_GENRES))
    for one in (model, plain):
        refit(one.layers[0], predict(one), data, 0.3)
    assert LAST.weight.equal(plain.layers[0].weight) and LAST.bias.equal(plain.layers[0].bias)


def test_a_layer_whose_inputs_are_not_seen_or_too_many_stays_as_it_is() -> None:
    before, data = LAST.weight.clone(), fold_data(clips(), LABELS, FOLD)
    refit(LAST, lambda _: None, data, 0.3)  # as compiled models may do
    assert output_layer(Twice(LAST), SOME) is LAST
    refit(LAST, predict(Twice(LAST)), data, 0.3)
    assert LAST.weight.equal(before)


def test_inputs_are_collected_where_the_windows_are_though_the_network_is_elsewhere_before() -> None:
    meta, layer = torch.device("meta"), nn.Linear(N_BINS, N_GENRES)  # on the CPU, where Lightning leaves networks
    windows = fold_data(clips(), LABELS, FOLD, device=meta).training_windows(100)
    inputs = module._inputs(layer, lambda all_: [layer.to(meta)(means(features)) for features, _ in all_], windows)
    assert inputs is not None and inputs.device == windows.labels.device == meta


def test_the_output_layer_is_found_wherever_it_is_defined_and_the_model_stays_as_it_was() -> None:
    model = Model(nn.BatchNorm1d(N_BINS), nn.Dropout(), last := nn.Linear(N_BINS, N_GENRES))
    model.spare = nn.Linear(N_BINS, N_GENRES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for training in (True, False):
        assert output_layer(model.train(training), SOME) is last
        assert model.training == training and model.layers[1].training == training
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


class Certain(Model):
    """A model of the user's own that gives log probabilities."""

    def __init__(self, n_genres: int, **settings: object) -> None:
        super().__init__(nn.LazyLinear(n_genres), nn.LogSoftmax(dim=1))


def test_a_model_that_will_stay_as_trained_is_named_once(
    composed: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture
) -> None:
    own = f"model._target_={__name__}.Certain"
    check_buildable(composed(own, "recipe.ridge=0"))
    assert not caplog.messages
    for features in ("mel", "mfcc"):
        check_buildable(composed(own, f"features={features}"))
        check_buildable(composed(f"features={features}"))
    (message,) = caplog.messages
    assert message.startswith(f"{__name__}.Certain: stays as trained; ") and f"at most {WIDEST} inputs" in message


class Wide(nn.Sequential):
    """A model of the user's own whose last layer is too wide to be fitted to spectrograms."""

    def __init__(self, n_genres: int, **settings: object) -> None:
        super().__init__(nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(), nn.LazyLinear(n_genres))


def test_members_that_stay_as_trained_beside_others_are_named(
    composed: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture
) -> None:
    check_buildable(composed(f"model._target_={__name__}.Wide", "recipe.first_crop=1"))
    (message,) = caplog.messages
    assert message.startswith(f"{__name__}.Wide: stays as trained as plain, though not as the other members; recipe")


def test_it_learns_from_the_training_and_validation_tracks_and_no_others() -> None:
    layers = {"layers.0.weight", "layers.0.bias"}

    def fitted(sounds: list[np.ndarray], labels: np.ndarray) -> dict[str, Tensor]:
        return refitted(fold_data(sounds, labels, FOLD), nn.Linear(N_BINS, N_GENRES))[0].state_dict()

    honest = fitted(clips(), LABELS)
    for track in range(len(LABELS)):
        sounds, labels = clips(), LABELS.copy()
        sounds[track], labels[track] = -sounds[track], (labels[track] + 1) % N_GENRES
        now = fitted(sounds, labels)
        assert {name for name in layers if not now[name].equal(honest[name])} == (layers if track in KNOWN else set())


def test_of_more_windows_than_memory_is_meant_for_it_takes_some_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    data = fold_data(clips(), LABELS, FOLD)
    monkeypatch.setattr(module, "MOST_VALUES", 5 * N_BINS)
    seen: list[Windows] = []
    model = Model(layer := nn.Linear(N_BINS, N_GENRES))
    refit(layer, lambda windows: (seen.append(windows), predict(model)(windows)), data, 0.3)
    tracks = [track for track, _ in seen[0].windows]
    assert len(tracks) == 5 and (tracks[0], tracks[-1]) == (KNOWN[0], KNOWN[-1]) and len(set(tracks)) == 5


def test_inputs_that_never_change_leave_it_with_the_genres_shares() -> None:
    data = fold_data([np.ones((N_BINS, 20)) for _ in LABELS], LABELS, FOLD)
    model, _ = refitted(data, nn.Linear(N_BINS, N_GENRES))
    shares = np.bincount(LABELS[KNOWN]) / len(KNOWN)
    expected = LOGIT_SCALE * (shares - 1 / N_GENRES)
    assert np.allclose(predict(model)(data.training_windows(1)).numpy(), expected, atol=1e-5)


def test_a_penalty_that_rounding_swallows_is_reported() -> None:
    data = fold_data([np.repeat(clip[:1], N_BINS, axis=0) for clip in clips()], LABELS, FOLD)
    with pytest.raises(DivergenceError, match=r"recipe\.ridge=1e-12: is too small"):
        refitted(data, nn.Linear(N_BINS, N_GENRES), ridge=1e-12)
