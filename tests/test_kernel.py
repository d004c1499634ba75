"""The kernel machine: scikit-learn's ridge regression, right on its training windows, and silent on unlike ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SPECS, a_classifier
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import Command, fold_data
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor

from genre_cls import GenreClassifier, train
from genre_cls.errors import UserError
from genre_cls.models.kernel import LOGIT_SCALE, RIDGE, KernelMachine, solved
from genre_cls.training import member


def windows(seed: int, n: int, n_values: int) -> Tensor:
    return torch.randn(n, n_values, generator=torch.Generator().manual_seed(seed)).half().float()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 30), st.integers(2, 10))
def test_it_is_the_ridge_regression_of_scikit_learn(seed: int, n: int, n_values: int, n_genres: int) -> None:
    known, new, labels = windows(seed, n, n_values), windows(seed + 1, 9, n_values), torch.arange(n) % n_genres
    got = KernelMachine.fitted(known, labels, n_genres)(new[:, None, None])
    reference = KernelRidge(kernel="rbf", gamma=1 / (2 * n_values), alpha=RIDGE)
    reference.fit(known.numpy(), np.eye(n_genres)[labels] - 1 / n_genres)
    np.testing.assert_allclose(got, LOGIT_SCALE * reference.predict(new.numpy()), atol=2e-3)


def test_it_classifies_its_training_windows_and_is_undecided_on_an_unlike_one() -> None:
    known, labels = windows(0, 60, 200), torch.arange(60) % 3
    machine = KernelMachine.fitted(known, labels, 3)
    assert machine(known[:, None, None]).argmax(dim=1).equal(labels)
    assert machine(torch.full((1, 1, 1, 200), 30.0)).abs().max() < 1e-6


def test_a_single_outlying_value_does_not_make_a_window_unlike_all_others() -> None:
    known, labels = windows(0, 60, 200), torch.arange(60) % 3
    far = known.clone()
    far[::7, 0] = 1e6  # more than float16 holds
    machine = KernelMachine.fitted(far, labels, 3)
    assert machine.centres.isfinite().all() and machine(far[:, None, None]).argmax(dim=1).equal(labels)
    assert machine(known[:, None, None]).argmax(dim=1).equal(labels)


def test_a_matrix_stored_by_columns_is_decomposed_in_its_own_memory() -> None:
    values = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
    matrix = (values @ values.T).T
    before = matrix + RIDGE * torch.eye(9)
    assert before @ solved(matrix, torch.eye(9), RIDGE) == pytest.approx(torch.eye(9).numpy(), abs=1e-3)
    torch.testing.assert_close(matrix.tril(), torch.linalg.cholesky(before))


def test_bfloat16_does_not_blur_it() -> None:
    machine, new = KernelMachine.fitted(windows(0, 60, 200), torch.arange(60) % 3, 3), windows(1, 9, 200)[:, None, None]
    with torch.autocast("cpu", torch.bfloat16):
        blurred = machine(new)
    assert torch.equal(blurred, machine(new))


def test_it_is_saved_and_loaded_unchanged_and_refused_when_empty(tmp_path: Path) -> None:
    first, again, empty = (tmp_path / f"{name}.safetensors" for name in ("first", "again", "empty"))
    a_classifier(SPECS["another rate"]).save(first)
    GenreClassifier.load(first).save(again)
    held, kept = load_file(first), load_file(again)
    centres = [name for name in kept if name.endswith("centres")]
    assert len(centres) == 2 and all(kept[name].dtype == torch.float16 for name in centres)
    assert all(held[name].equal(kept[name]) for name in kept)
    with safe_open(first, "pt") as file:
        nothing = {name: held[name][:0] for name in centres + [name.replace("centres", "weights") for name in centres]}
        save_file(held | nothing, empty, file.metadata())
    with pytest.raises(UserError, match="needs at least one training window"):
        GenreClassifier.load(empty)


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_a_configuration_may_be_a_kernel_machine_alone(
    command: Command, on_music: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "MAX_WINDOWS", 11)
    same = ("features=mel", "model=basic", "batch_size=4,8", "trainer.workers=1", "recipe.members=[statistics]")
    done = command(train.main, "-m", *on_music, *same)
    assert done.code == 0 and (done.folder / "report" / "report.html").exists()
    idle = "where no network votes, model, batch_size, recipe.epochs and recipe.ridge change nothing"
    assert done.err.count(idle) == 1
    parent, other = done.parents
    assert parent.data.metrics["accuracy_mean"] == other.data.metrics["accuracy_mean"]
    assert parent.data.metrics["accuracy_mean"] > 0.8 and parent.data.params["n_parameters"] == "0"
    for fold in done.children(parent):
        assert "train_loss" not in fold.data.metrics and "loss_curves.png" in done.files(fold)
        with safe_open(done.files(fold)["model.safetensors"], "pt") as file:
            assert file.get_tensor("0.model.centres").shape[0] == 11


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_early_stopping_takes_no_tracks_from_it(command: Command, on_music: tuple[str, ...]) -> None:
    one = ("features=mel", "model=basic", "batch_size=4", "trainer.workers=1", "recipe.members=[statistics]")
    stopping = ("recipe.early_stopping.patience=0,1", "recipe.early_stopping.val_fraction=0.4")
    done = command(train.main, "-m", *on_music, *one, *stopping)
    assert done.code == 0
    not_stopped, stopped = map(done.children, done.parents)
    for one_fold, same_fold in zip(stopped, not_stopped, strict=True):
        assert one_fold.data.metrics["log_loss"] == same_fold.data.metrics["log_loss"]
        n_known = [json.loads(done.files(fold)["fold.json"].read_text())["n_train"] for fold in (one_fold, same_fold)]
        assert n_known[0] == n_known[1]  # or the interval would be wider for nothing
        with safe_open(done.files(one_fold)["model.safetensors"], "pt") as file:
            assert len(json.loads(file.metadata()["genre_cls"])["trained_on"]) == n_known[0]


@pytest.mark.usefixtures("store_here", "blank_pictures")
def test_beside_networks_it_leaves_their_curves_alone(command: Command, on_music: tuple[str, ...]) -> None:
    one = ("features=mfcc", "model=basic", "batch_size=4", "trainer.workers=1")
    done = command(train.main, "-m", *on_music, *one, "recipe.members=[plain],[plain,statistics]")
    assert done.code == 0
    parents = sorted(done.parents, key=lambda run: len(run.data.params["recipe.members"]))
    alone, beside = map(done.children, parents)
    for without, with_it in zip(alone, beside, strict=True):
        assert without.data.metrics["train_loss"] == with_it.data.metrics["train_loss"]
        assert without.data.metrics["log_loss"] != with_it.data.metrics["log_loss"]


def test_held_out_sound_does_not_reach_it() -> None:
    random = np.random.default_rng(0)
    clips = [random.normal(size=(6, 20)) for _ in range(9)]
    learned = member._fit_kernel_machine(fold_data(clips, np.arange(9) % 3, view="statistics"), 3)
    for track in range(0, 9, 3):
        clips[track] = 5 - 10 * clips[track]
    deaf = member._fit_kernel_machine(fold_data(clips, np.arange(9) % 3, view="statistics"), 3)
    assert all(weights.equal(deaf[0][name]) for name, weights in learned[0].items())
    assert not np.array_equal(learned[2].probabilities, deaf[2].probabilities)
