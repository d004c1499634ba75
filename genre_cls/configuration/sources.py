"""The code that computes a configuration's results, as digests."""

import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import blake2b

from hydra.utils import get_object

import genre_cls
from genre_cls.configuration.settings import PACKAGE

# The package as it was when this process began; edits made meanwhile do not change what is running.
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in PACKAGE.rglob("*.py")
}
# Packages and modules on which no fold's stored result depends, or only by way of its tracks and folds (`Task.inputs`).
# A new one counts until it or its package is listed: to train once too often is better than to reuse what it would not
# compute.
NO_EFFECT_ON_RESULTS = {
    "__init__", "__main__", "app", "download", "errors", "extras", "files", "inference", "predict", "progress",
    "report", "tracking", "train",
    "configuration.arguments", "configuration.commands", "configuration.messages", "configuration.overrides",
    "configuration.provenance",
    "evaluation.comparisons", "evaluation.estimates", "evaluation.figures", "evaluation.findings",
    "evaluation.genre_means", "evaluation.page", "evaluation.plots", "evaluation.reading", "evaluation.scoring",
    "evaluation.tables", "experiments.experiment", "experiments.logged_files", "experiments.outbox",
    "experiments.spool", "experiments.upcoming", "models.modelfile", "processes.die_with_parent",
    "processes.interrupts", "processes.memory", "processes.nvidia_mps", "processes.workers", "tracks.demo",
    "tracks.duplicates", "tracks.folder", "tracks.gtzan", "tracks.listing", "tracks.metadata", "tracks.synthesiser",
    "training.dataset", "training.preparation",
}  # fmt: skip


def digests(targets: Iterable[str]) -> dict[str, str]:
    """Return digests of the code that computes, by package or `_target_`."""
    own = {target: digest(source) for target in sorted(targets) if (source := _source(target))}
    of_package = sorted(
        (name, text)
        for name, text in SOURCES.items()
        if NO_EFFECT_ON_RESULTS.isdisjoint((name, name.partition(".")[0]))
    )
    return {genre_cls.__name__: digest(of_package)} | own


def is_edited(target: str, sources: Mapping[str, str]) -> bool:
    """Return whether the file that defines a class has another content than when a run was stored; imports the file.

    Args:
        target: the class, a `_target_` outside of this package.
        sources: the run's, as in `Identity`.
    """
    return target in sources and sources[target] != digest(_source(target))


@cache  # as it was when this process first asked: workers keep what they have imported then
def _source(target: str) -> str:
    """Return the source of the file that defines a `_target_`, such as a user's model; empty if there is none."""
    try:
        module = inspect.getmodule(get_object(target))
        return inspect.getsource(module) if module and module.__name__.partition(".")[0] != genre_cls.__name__ else ""
    except (ImportError, OSError, TypeError):  # no such class (reported when it is built), or not Python
        return ""


def digest(*parts: object) -> str:
    """Return a short fingerprint of plain data."""
    return blake2b(repr(parts).encode(), digest_size=8).hexdigest()
