"""One member of an ensemble, trained by itself."""

from dataclasses import replace

from shared import Compose
from torch import Tensor

from genre_cls.configuration.settings import without_hydra
from genre_cls.tracks.folds import Fold
from genre_cls.training import task
from genre_cls.training.member import train_member


def test_members_with_one_view_and_folds_begin_with_weights_of_their_own_which_the_seed_decides(
    composed: Compose, on_music: tuple[str, ...]
) -> None:
    still = ("recipe.optimizer.lr=1e-12", "recipe.ridge=0", "recipe.epochs=1")  # so that weights stay as they were
    two_alike = ("features=mel", "model=basic", "recipe.members=[plain,plain]")

    def weights(fold: Fold, place: int, seed: int = 0) -> Tensor:
        cfg = without_hydra(composed(*on_music, *two_alike, *still, f"seed={seed}"))
        learned = train_member(cfg, found, fold, place).weights
        return next(tensor for name, tensor in learned.items() if tensor.dim() == 4)

    found = task.load(without_hydra(composed(*on_music, *two_alike)))
    assert found
    fold, other = found.folds[0], replace(found.folds[0], index=1)
    first = weights(fold, 0)
    assert weights(fold, 0).equal(first)
    assert all((weights(*of) - first).abs().max() > 0.01 for of in ((fold, 1), (other, 0), (fold, 0, 1)))
