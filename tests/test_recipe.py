"""Augmentation of windows; schedules of crops and learning rates."""

from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.optim import Adagrad, AdamW

from genre_cls.training.recipe import GROWING, Augmentation, constant, crop_lengths, one_cycle


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 3))
def test_masks_are_bands_of_each_window_within_their_share(bin_mask: float, frame_mask: float, n_masks: int) -> None:
    augmentation = Augmentation(bin_mask=bin_mask, frame_mask=frame_mask, n_masks=n_masks)
    masked = augmentation.mask(torch.ones(5, 1, 20, 30))[:, 0] == 0  # (batch, bins, frames)
    bins, frames = masked.all(dim=2), masked.all(dim=1)
    assert (masked == (bins[:, :, None] | frames[:, None])).all()
    if not (bins.all(dim=1) | frames.all(dim=1)).any():  # where all is masked, the two cannot be told apart
        assert bins.sum(dim=1).max() <= n_masks * int(bin_mask * 20)
        assert frames.sum(dim=1).max() <= n_masks * int(frame_mask * 30)


def test_every_window_is_masked_independently() -> None:
    torch.manual_seed(0)
    for augmentation in (Augmentation(bin_mask=0.3, n_masks=1), Augmentation(frame_mask=0.3, n_masks=1)):
        masked = augmentation.mask(torch.ones(40, 1, 40, 40))
        assert len(torch.unique(masked, dim=0)) > 20


def test_without_shares_nothing_is_masked_or_mixed() -> None:
    features = torch.randn(4, 1, 6, 7)
    assert torch.equal(Augmentation(n_masks=3).mask(features), features)
    blends, _, share = Augmentation().mix(features)
    assert share == 1 == Augmentation().draw_mixing_weight() and torch.equal(blends, features)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.01, 20), st.integers(1, 6), st.integers(0, 1000))
def test_a_blend_is_mostly_its_own_window_and_else_its_partner(mixup: float, batch: int, seed: int) -> None:
    torch.manual_seed(seed)
    features = torch.randn(batch, 1, 3, 4)
    blends, partner, share = Augmentation(mixup=mixup).mix(features)
    assert 0.5 <= share <= 1 and sorted(partner.tolist()) == list(range(batch))
    assert torch.allclose(blends, share * features + (1 - share) * features[partner], atol=1e-6)


@settings(deadline=None, max_examples=100)
@given(n_window=st.integers(1, 300), first=st.floats(0.01, 1), epochs=st.integers(1, 60))
def test_crops_grow_evenly_from_the_share_asked_for_and_the_last_are_whole_windows(
    n_window: int, first: float, epochs: int
) -> None:
    lengths = crop_lengths(n_window, first, epochs)
    even = first + (1 - first) * np.arange(epochs) / (GROWING * epochs)
    assert len(lengths) == epochs and min(lengths) >= 1
    assert np.allclose(lengths[:-1], n_window * even.clip(max=1)[:-1], atol=1)
    assert all(length == n_window for length in (lengths[-1], *lengths[ceil(GROWING * epochs) :]))


@settings(deadline=None, max_examples=60)
@given(total=st.integers(1, 60), warmup=st.floats(0.01, 0.99))
@example(total=2, warmup=0.5)
@example(total=10, warmup=0.1)
def test_one_cycle_rises_to_the_peak_and_falls_to_almost_zero(total: int, warmup: float) -> None:
    optimizer = AdamW([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = one_cycle(optimizer, total, warmup=warmup)
    rates = []
    for step in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < total - 1:
            schedule.step()
    top = int(np.argmax(rates))
    assert max(rates) <= 0.5 + 1e-9 and rates[-1] < 0.01
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert abs(top - (warmup * total - 1)) <= 1


def test_one_cycle_takes_optimisers_without_momentum() -> None:
    optimizer = Adagrad([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = one_cycle(optimizer, 10, warmup=0.3)
    optimizer.step()
    schedule.step()
    assert 0 < optimizer.param_groups[0]["lr"] < 0.5


def test_a_constant_learning_rate_stays_the_optimisers_own() -> None:
    optimizer = AdamW([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = constant(optimizer, 3)
    for _ in range(3):
        assert schedule.get_last_lr() == [optimizer.param_groups[0]["lr"]] == [0.5]
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("mixup", [0.001, -1.0, 1e39])
def test_mixing_weights_that_float32_would_round_to_a_half_are_refused(mixup: float) -> None:
    with pytest.raises(ValueError, match="must be 0, or from"):
        Augmentation(mixup=mixup)


@pytest.mark.parametrize("mixup", [0.3, 4.0])
def test_the_weights_of_blends_are_the_larger_parts_of_a_symmetric_beta_distribution(mixup: float) -> None:
    torch.manual_seed(0)
    weights = [Augmentation(mixup=mixup).draw_mixing_weight() for _ in range(2000)]
    larger = stats.kstest(weights, lambda weight: 2 * stats.beta.cdf(weight, mixup, mixup) - 1)
    assert larger.pvalue > 0.01


def test_every_window_of_a_batch_may_be_blended_with_every_other_one() -> None:
    torch.manual_seed(0)
    augmentation, windows = Augmentation(mixup=1.0), torch.zeros(4, 1, 1, 1)
    partners = torch.stack([augmentation.mix(windows)[1] for _ in range(100)])
    assert all(set(of_one.tolist()) == set(range(4)) for of_one in partners.T)


def test_there_are_as_many_masks_of_each_kind_as_asked_for() -> None:
    torch.manual_seed(0)
    augmentation = Augmentation(bin_mask=0.1, frame_mask=0.1, n_masks=3)
    masked = augmentation.mask(torch.ones(200, 1, 40, 40))[:, 0] == 0
    for lines in (masked.all(dim=2), masked.all(dim=1)):
        bands = lines.diff(dim=1, prepend=torch.zeros(200, 1, dtype=torch.bool)).sum(dim=1).add(1) // 2
        assert bands.max() == 3
