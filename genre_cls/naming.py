"""Which stored runs of configurations can be compared, and what tells them apart."""

import json
import re
from collections.abc import Sequence

from mlflow.entities import Run

from genre_cls.comparisons import CODE
from genre_cls.settings import is_incidental

CONFIRMED = "confirmed"  # the tag for when a later command found all of a configuration done, ms since 1970


def comparable(parents: Sequence[Run]) -> list[Run]:
    """Of configurations, newest first, those that can be compared with the newest, each by its last run."""
    alike = [run for run in parents if _same(run, parents[0], "comparison")]
    return list({run.data.tags["identity"]: run for run in reversed(alike)}.values())


def names(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """What runs that are compared are named by, by their ids."""
    keys, codes = _keys(runs), _codes(runs)
    names = {run.info.run_id: named(run, keys) for run in runs}
    return {run_id: name | ({CODE: codes[run_id]} if codes else {}) for run_id, name in names.items()}


def under_other_splits(run: Run, others: Sequence[Run]) -> dict[str, Run]:
    """The last runs of the same configuration and code on the same dataset under other splits, by these.

    Args:
        run: of a configuration.
        others: runs of configurations, newest first.
    """
    same = [other for other in others if _same(run, other, "dataset_digest") and _same(run, other, "setup")]
    same = [other for other in same if len({_k(run), _k(other)} - {None}) < 2]  # more folds learn from more tracks
    same = [other for other in same if not _of_other_code(run, other)]
    return {other.data.tags["folds"]: other for other in reversed(same) if not _same(run, other, "folds")}


def named(run: Run, keys: Sequence[str] = ()) -> dict[str, str]:
    """What a run is named by: what it was told, and settings that others are named by; unsaid, they may be the same."""
    told, params = json.loads(run.data.tags["named"]), run.data.params
    unsaid = {"experiment": "none"}  # a choice that need not be made, while each setting has some value
    return {key: params.get(legal(key), told.get(key, unsaid.get(key, "?"))) for key in (*told, *keys)}


def moment(run: Run) -> int:
    """When a configuration was last found finished, ms since 1970."""
    return max(run.info.end_time, int(run.data.tags.get(CONFIRMED, 0)))


def legal(name: str) -> str:
    """A genre may have any name, a metric of MLflow may not."""
    return re.sub(r"[^\w. -]", "_", name)[:250]


def _keys(runs: Sequence[Run]) -> list[str]:
    """Settings that runs are named by: those that any was told, and others that differ where these are equal."""
    told = [key for run in runs for key in json.loads(run.data.tags["named"])]
    alike: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        alike.setdefault(frozenset(named(run, told).items()), []).append(run)
    return told + [key for group in alike.values() for key in _differing_settings(group)]


def _differing_settings(alike: Sequence[Run]) -> list[str]:
    """Settings that differ between runs of one name, as a file that they are read from was edited, say."""
    keys = {key for run in alike for key in run.data.params if key != "n_parameters" and not is_incidental(key)}
    return sorted(key for key in keys if len({run.data.params.get(key) for run in alike}) > 1)


def _codes(runs: Sequence[Run]) -> dict[str, str]:
    """Which state of the code each run is of, by its id, the oldest being 1; empty if it is the same.

    What a run has no use for, or does not tell, as those of earlier versions, is taken for the newest.
    """
    by_age = sorted(runs, key=moment)
    newest = {name: source for run in by_age for name, source in _sources(run).items()}
    states = {run.info.run_id: frozenset((newest | _sources(run)).items()) for run in reversed(by_age)}
    in_order = list(dict.fromkeys(states.values()))[::-1]  # by when each was last in use
    numbers = {run_id: str(in_order.index(state) + 1) for run_id, state in states.items()}
    return numbers if len(in_order) > 1 else {}


def _of_other_code(run: Run, other: Run) -> bool:
    """Whether code that both runs name has changed between them."""
    one, two = _sources(run), _sources(other)
    return any(one[name] != two[name] for name in one.keys() & two.keys())


def _sources(run: Run) -> dict[str, str]:
    """Digests of the code that a run is of, by whose it is; none if an earlier version logged it."""
    sources: dict[str, str] = json.loads(run.data.tags.get("sources", "{}"))
    return sources


def _same(one: Run, other: Run, tag: str) -> bool:
    return tag in one.data.tags and one.data.tags[tag] == other.data.tags.get(tag)


def _k(run: Run) -> str | None:
    """How many folds there are that each judge a part; none of a published split."""
    k: str | None = run.data.params.get("folds.k")
    return k
