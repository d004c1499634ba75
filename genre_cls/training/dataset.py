"""The dataset that settings describe, which a process reads once for all configurations, before it imports PyTorch."""

from functools import cache

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from genre_cls.configuration.settings import as_yaml
from genre_cls.errors import UserError, of_other_kind
from genre_cls.files import make_folder
from genre_cls.tracks.catalogue import Catalogue


def data_settings(cfg: DictConfig) -> str:
    """Return all settings that decide which tracks there are and how they are labelled."""
    keys = ["dataset", "cache_dir", "max_unreadable", "drop_faults", "shuffle_genres"]
    return as_yaml(cfg, *keys, *(["seed"] if cfg.shuffle_genres else []))


def catalogue_of(cfg: DictConfig) -> Catalogue:
    """Return a configuration's tracks.

    Raises:
        UserError: there are none, or the dataset is something else.
    """
    return _read(data_settings(cfg))


@cache  # so that all configurations of a sweep have the same tracks
def _read(settings: str) -> Catalogue:
    cfg = OmegaConf.create(settings)
    if cfg.dataset.get("cache_dir"):  # here, so that the error names this setting
        make_folder("cache_dir", cfg.dataset.cache_dir)
    catalogue = instantiate(cfg.dataset)
    if not isinstance(catalogue, Catalogue):
        raise of_other_kind("dataset", cfg.dataset.get("_target_"), "Catalogue", catalogue)
    if cfg.drop_faults:
        catalogue = catalogue.without_faults()
    if len(catalogue.genres) < 2:
        raise UserError(f"dataset {catalogue.name}: has fewer than two genres, so there is nothing to tell apart")
    return catalogue.with_shuffled_genres(cfg.seed) if cfg.shuffle_genres else catalogue
