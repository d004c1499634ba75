"""Decide which stored configurations can be compared, and name them by the settings that differ."""

import json
import re
from collections.abc import Iterable, Sequence

from mlflow.entities import Run

from genre_cls.configuration.settings import AXES, is_incidental
from genre_cls.evaluation.comparisons import CODE

TAGS = ("identity", "setup", "sources", "named", "dataset", "dataset_digest", "folds", "comparison")  # to compare by
CONFIRMED = "confirmed"  # the tag with the time when a command last found a configuration complete, ms since 1970


def of_one_experiment(parents: Sequence[Run]) -> list[Run]:
    """Return the runs of the newest one's experiment, so that trials under a name of their own stay apart.

    Args:
        parents: runs of configurations, newest first.
    """
    return [run for run in parents if run.info.experiment_id == parents[0].info.experiment_id]


def comparable(parents: Sequence[Run]) -> list[Run]:
    """Return the last run of each configuration that can be compared with the newest one, in the order they were begun.

    That order breaks ties, and does not change when folds are reused.

    Args:
        parents: runs of configurations, newest first.
    """
    same = [run for run in parents if _same(run, parents[0], "comparison")]
    last = {run.data.tags["identity"]: run for run in reversed(same)}
    return sorted(last.values(), key=lambda run: run.info.start_time)


def distinguishing_settings(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Return the settings that name each of some runs that are compared, by run id."""
    keys, codes = _keys(runs), _codes(runs)
    return {run.info.run_id: settings_of(run, keys) | codes.get(run.info.run_id, {}) for run in runs}


def under_other_splits(run: Run, others: Sequence[Run]) -> dict[str, Run]:
    """Return the last runs of the same configuration and code on the same dataset under other splits, by split.

    Args:
        run: of a configuration.
        others: runs of configurations, newest first.
    """
    same = [other for other in others if _same(run, other, "dataset_digest") and _same(run, other, "setup")]
    same = [other for other in same if len({_k(run), _k(other)} - {None}) < 2]  # more folds train on more tracks
    same = [other for other in same if not _of_other_code(run, other)]
    return {other.data.tags["folds"]: other for other in reversed(same) if not _same(run, other, "folds")}


def settings_of(run: Run, keys: Sequence[str] = ()) -> dict[str, str]:
    """Return the settings that name a run: those that its command gave, and further ones.

    Args:
        run: of a configuration.
        keys: of settings that other runs are named by, which this one may have by default.
    """
    given, params = json.loads(run.data.tags["named"]), run.data.params
    defaults = {"experiment": "none"}  # the only optional choice
    return {key: params.get(legal(key), given.get(key, defaults.get(key, "unset"))) for key in (*given, *keys)}


def has_its_tags(run: Run) -> bool:
    """Return whether a configuration's run has the tags that it was stored with; MLflow's page lets users edit them."""
    tags = run.data.tags
    try:
        named = _texts(tags["named"])
        _texts(tags["sources"])
        int(tags.get(CONFIRMED, 0))
    except (KeyError, ValueError):
        return False
    return named.keys() >= set(AXES) and all(tag in tags for tag in TAGS)


def _texts(tag: str) -> dict[str, str]:
    """Parse a tag that holds texts by name; ValueError if it holds anything else."""
    parsed = json.loads(tag)
    if not (isinstance(parsed, dict) and all(isinstance(text, str) for text in parsed.values())):
        raise ValueError(tag)
    return parsed


def moment(run: Run) -> int:
    """Return when a configuration was last found complete, ms since 1970."""
    return max(run.info.end_time, int(run.data.tags.get(CONFIRMED, 0)))


def legal(name: str) -> str:
    """Return a name that MLflow accepts for a metric or a parameter, from any text, such as a genre's name."""
    return re.sub(r"[^\w. -]", "_", name)[:250]


def legal_names(names: Iterable[str]) -> dict[str, str]:
    """Return the names of a run's metrics in MLflow by their own; those that would become the same get numbers.

    Args:
        names: such as of the recalls of genres, in their order.
    """
    found: dict[str, str] = {}
    for name in names:
        unique, n = legal(name), 1
        while unique in found.values():
            n += 1
            unique = f"{legal(name)[:240]}-{n}"
        found[name] = unique
    return found


def _keys(runs: Sequence[Run]) -> list[str]:
    """Return the settings that name runs: those that any command gave, and others that differ where these are equal."""
    given = [key for run in runs for key in json.loads(run.data.tags["named"])]
    by_name: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        by_name.setdefault(frozenset(settings_of(run, given).items()), []).append(run)
    return given + [key for group in by_name.values() for key in _differing_settings(group)]


def _differing_settings(runs: Sequence[Run]) -> list[str]:
    """Return the settings that differ between runs of one name, for example because a file of settings was edited."""
    keys = {key for run in runs for key in run.data.params if key != "n_parameters" and not is_incidental(key)}
    return sorted(key for key in keys if len({run.data.params.get(key) for run in runs}) > 1)


def _codes(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Return the version of the code that each run used, as if it were a setting, by run id; empty if all are equal.

    Versions are numbered from 1, the oldest. Sources that a run does not use are assumed to be the newest.
    """
    by_age = sorted(runs, key=moment)
    newest = {name: source for run in by_age for name, source in _sources(run).items()}
    states = {run.info.run_id: frozenset((newest | _sources(run)).items()) for run in reversed(by_age)}
    in_order = list(dict.fromkeys(states.values()))[::-1]  # by when each was last used
    numbers = {run_id: {CODE: str(in_order.index(state) + 1)} for run_id, state in states.items()}
    return numbers if len(in_order) > 1 else {}


def _of_other_code(run: Run, other: Run) -> bool:
    """Whether a source that both runs used has changed between them."""
    one, two = _sources(run), _sources(other)
    return any(one[name] != two[name] for name in one.keys() & two.keys())


def _sources(run: Run) -> dict[str, str]:
    """Return the digests of a run's sources by their names."""
    return json.loads(run.data.tags["sources"])


def _same(one: Run, other: Run, tag: str) -> bool:
    return one.data.tags[tag] == other.data.tags[tag]


def _k(run: Run) -> str | None:
    """Return the number of folds of a cross-validation; None for a published split."""
    return run.data.params.get("folds.k")
