"""Choose the configurations of a store that can be compared with the newest one, and load their results."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from mlflow.entities import Run

from genre_cls.errors import in_one_line
from genre_cls.evaluation.estimates import rounded
from genre_cls.evaluation.genre_means import GenreMeans
from genre_cls.evaluation.scoring import ConfigResult
from genre_cls.tracking import naming
from genre_cls.tracking.artifacts import DAMAGED, GENRE_MEANS, SUMMARIES, TRACKS, load_genre_means, load_tracks
from genre_cls.tracking.stored_runs import COMMAND_IDS, FAILURES, StoredRuns, Texts, changed_metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """Configurations that were tested on the same tracks in the same folds, so that they can be compared.

    Args:
        tags: of the configuration that finished last.
        finished: when the last of them ended, local time.
        commands: command lines, each with the number of configurations that it was the last to write, most first.
        results: one per configuration.
        means: average features per genre, one per kind of feature.
        tracks: `artifacts.FACTS` of each track by its id, empty where unknown.
        n_left_out: the command's configurations that were tested on other tracks or folds, and are in none of these.
    """

    tags: Texts
    finished: str
    commands: Mapping[str, int]
    results: tuple[ConfigResult, ...]
    means: tuple[GenreMeans, ...]
    tracks: Mapping[str, Texts]
    n_left_out: int


def newest(stored: StoredRuns, experiment: str | None = None, *, command_id: str | None = None) -> Comparison | None:
    """Return the configuration that finished last and all comparable ones; None if none has finished.

    Args:
        stored: the runs to look among.
        experiment: name of the experiment to look in; None for that of the configuration.
        command_id: of the command whose last configuration counts as the newest, whatever the clock says; None for
            any command.
    """
    ended = stored.ended(experiment)
    parents = _finished(ended)
    parents.sort(key=lambda run: not _is_of(run, command_id))  # the command's first, even if the clock was set back
    if not parents or (command_id and not _is_of(parents[0], command_id)):
        return None
    together = naming.of_one_experiment(parents)
    for run in ended:
        if run.info.experiment_id == together[0].info.experiment_id and not naming.has_its_tags(run):
            log.warning("left out %s: lacks tags, or they were edited in MLflow", run.info.run_name)
    whole, folds = _whole(stored, together)
    for run in naming.comparable(together):
        if run not in whole:
            log.warning("left out %s: lacks a fold, which its command trains again", run.info.run_name)
    if not whole:
        return None
    loaded, reported = _load_comparable(stored, whole, folds)
    return _comparison(whole[0].data.tags, loaded, _n_left_out(parents, reported, command_id)) if loaded else None


def best(stored: StoredRuns, experiment: str | None = None) -> str | None:
    """Return the run id of the best configuration by mean accuracy among those that `newest` compares.

    Those that were trained on shuffled genres are left out; None if there are no others.

    Args:
        stored: the runs to look among.
        experiment: name of the experiment to look in; None for that of the configuration that finished last.
    """
    finished = [run for run in _finished(stored.ended(experiment)) if run.data.params.get("shuffle_genres") != "True"]
    if not finished:
        return None
    whole, _ = _whole(stored, naming.of_one_experiment(finished))

    def scores(run: Run) -> list[float]:  # the second one breaks ties, as in the ranking
        return [rounded(run.data.metrics.get(score, 0)) for score in ("accuracy_mean", "macro_f1_mean")]

    return max(naming.comparable(whole), key=scores).info.run_id if whole else None


@dataclass(frozen=True)
class _Loaded:
    """A configuration's run, its result, average features and what is known of each track."""

    run: Run
    result: ConfigResult
    means: Mapping[str, GenreMeans]
    tracks: Mapping[str, Texts]


def _finished(ended: Sequence[Run]) -> list[Run]:
    """Return those runs of configurations that can be compared, newest first."""
    return sorted(filter(naming.has_its_tags, ended), key=naming.moment, reverse=True)


def _is_of(run: Run, command_id: str | None) -> bool:
    """Whether a command included a configuration; none is of the command None."""
    return command_id in run.data.tags.get(COMMAND_IDS, "").split()


def _whole(stored: StoredRuns, parents: Sequence[Run]) -> tuple[list[Run], dict[str, list[Run]]]:
    """Return those configurations of one experiment that lack no fold, and the fold runs by configuration."""
    folds = stored.folds_in(parents[0].info.experiment_id)
    return [run for run in parents if 0 < len(folds.get(run.info.run_id, ())) == _n_folds(run)], folds


def _n_folds(parent: Run) -> int:
    """Return how many folds a configuration had when it was complete; 0 if that was not logged."""
    seconds, per_fold = (parent.data.metrics.get(name, 0) for name in ("seconds", "seconds_per_fold"))
    return round(seconds / per_fold) if per_fold else 0


def _load_comparable(
    stored: StoredRuns, whole: Sequence[Run], folds: Mapping[str, Sequence[Run]]
) -> tuple[list[_Loaded], list[Run]]:
    """Load those of some configurations that can be compared with the first, each with its results under other splits.

    Returns:
        What could be loaded; and all runs that were to be, those under other splits included.
    """
    comparable = naming.comparable(whole)
    named = naming.distinguishing_settings(comparable)
    others = {run.info.run_id: naming.under_other_splits(run, whole) for run in comparable}
    loaded = [one for run in comparable if (one := _load(stored, run, named[run.info.run_id], folds))]
    complete = [_with_other_splits(stored, one, others[one.run.info.run_id], folds) for one in loaded]
    return complete, [*comparable, *(run for by_split in others.values() for run in by_split.values())]


def _load(stored: StoredRuns, parent: Run, named: Texts, folds: Mapping[str, Sequence[Run]]) -> _Loaded | None:
    """Load a configuration's result from its fold runs, and its own files; None if any are missing.

    Args:
        stored: the runs that it is among.
        parent: the configuration's run.
        named: the settings that name it.
        folds: the runs of its folds, by its id.
    """
    try:
        results = stored.load(folds[parent.info.run_id])
        means, tracks = _summaries(stored.files(parent, SUMMARIES))
        result = ConfigResult(named, results, int(parent.data.params["n_parameters"]), _groups(tracks))
        figures = result.summary
    except (*FAILURES, *DAMAGED) as error:
        log.warning("left out %s: %s", parent.info.run_name, in_one_line(error))
        return None
    if changed := changed_metrics(parent, figures):
        log.warning("%s: %s differ from what was logged", parent.info.run_name, ", ".join(changed))
    return _Loaded(parent, result, means, tracks)


def _summaries(folder: Path) -> tuple[dict[str, GenreMeans], dict[str, dict[str, str]]]:
    """Load average features by kind and what is known of each track, as far as a configuration's files are sound."""
    means: dict[str, GenreMeans] = {}
    tracks: dict[str, dict[str, str]] = {}
    try:
        means |= {mean.kind: mean for mean in map(load_genre_means, folder.glob(GENRE_MEANS.format("*")))}
        tracks |= load_tracks(folder / TRACKS) if (folder / TRACKS).exists() else {}
    except DAMAGED as error:
        log.warning("%s: average features or facts of tracks are damaged: %s", folder, in_one_line(error))
    return means, tracks


def _with_other_splits(
    stored: StoredRuns, one: _Loaded, by_split: Mapping[str, Run], folds: Mapping[str, Sequence[Run]]
) -> _Loaded:
    """Add the results of the same configuration under other splits."""
    others = {split: _load(stored, run, naming.settings_of(run), folds) for split, run in by_split.items()}
    results = {split: other.result for split, other in others.items() if other}
    return replace(one, result=replace(one.result, other_splits=results))


def _comparison(tags: Texts, loaded: Sequence[_Loaded], n_left_out: int) -> Comparison:
    """Return the comparison of loaded configurations; `tags` are those of the newest."""
    finished = datetime.fromtimestamp(max(one.run.info.end_time for one in loaded) / 1000)
    commands = Counter(filter(None, (one.run.data.tags.get("command") for one in loaded)))
    by_age = sorted(loaded, key=lambda one: naming.moment(one.run))  # what was found last about a track counts
    means = {kind: mean for one in by_age for kind, mean in one.means.items()}
    tracks = {track: facts for one in by_age for track, facts in one.tracks.items()}
    results = tuple(replace(one.result, groups=_groups(tracks)) for one in loaded)
    moment = finished.isoformat(" ", "seconds")
    return Comparison(tags, moment, dict(commands.most_common()), results, tuple(means.values()), tracks, n_left_out)


def _groups(tracks: Mapping[str, Texts]) -> Texts:
    """Return the groups of tracks that share an artist or a recording, by track; empty if none is known."""
    return {track: group for track, facts in tracks.items() if (group := facts["group"])}


def _n_left_out(parents: Sequence[Run], reported: Sequence[Run], command_id: str | None) -> int:
    """Return how many of a command's configurations are not reported, neither as they are nor as another split."""
    identities = {run.data.tags["identity"] for run in parents if _is_of(run, command_id)}
    return len(identities - {run.data.tags["identity"] for run in reported})
