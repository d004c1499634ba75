"""Finished folds on their way from the spool to the tracking store, with the pictures that go with them."""

import logging
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from genre_cls.errors import in_one_line
from genre_cls.evaluation.predictions import FoldResult
from genre_cls.experiments import logged_files
from genre_cls.experiments.spool import Spool
from genre_cls.processes import workers
from genre_cls.tracking.artifacts import Files, load_fold
from genre_cls.tracking.stored_runs import FAILURES, Texts
from genre_cls.tracking.tracker import Tracker

log = logging.getLogger(__name__)

N_DRAWING = 2  # processes that draw pictures


class Pictures:
    """The pictures of a configuration's folds: drawn when they are needed, or ahead of that by other processes.

    Args:
        title: of the configuration.
        note: small print below each.
    """

    def __init__(self, title: str, note: str) -> None:
        self.title, self.note = title, note
        self.calls: dict[int, Future[bytes]] = {}

    def begin(self, fold: FoldResult) -> None:
        """Have another process draw a fold's pictures."""
        arguments = fold, self.title, self.note
        self.calls[fold.index] = workers.call(N_DRAWING, logged_files.pictures_of_fold, *arguments, purpose="drawing")

    def pending(self, index: int) -> bool:
        """Return whether a fold's pictures are being drawn."""
        return index in self.calls and not self.calls[index].done()

    def of(self, fold: FoldResult) -> Files:
        """Return a fold's pictures, waiting for them or drawing them if necessary."""
        if call := self.calls.pop(fold.index, None):
            (pictures,) = workers.results([call])
            return cast(Files, pictures)
        return logged_files.pictures_of_fold(fold, self.title, self.note)


@dataclass
class Outbox:
    """Moves finished folds from the spool to the store; while the store is unreachable, they stay.

    Args:
        spool: with the finished folds.
        pictures: of the folds.
        tracker: connection to the store.
        experiment_id: of the experiment that gets the folds' runs.
        tags: of these runs.
        params: of these runs.
        away: whether the store was unreachable.
    """

    spool: Spool
    pictures: Pictures
    tracker: Tracker
    experiment_id: str
    tags: Texts
    params: Texts
    away: bool = False

    def flush(self) -> None:
        """Log all folds; raise whatever the store raises."""
        for folder in self.spool.folders():
            self._log(folder)

    def flush_if_possible(self) -> None:
        """Log the folds whose pictures are drawn; a store that fails is not tried again before the end of training."""
        if self.away:
            return
        try:
            for folder in self.spool.folders():
                if not self.pictures.pending(int(folder.name)):
                    self._log(folder)
        except FAILURES as error:
            self.away = True
            log.warning("not logged yet, kept in %s: %s", self.spool.path, in_one_line(error))

    def _log(self, folder: Path) -> None:
        fold = load_fold(folder)
        files = {**self.spool.files(folder), **self.pictures.of(fold)}
        name = f"fold {fold.index}"
        with self.tracker.run(self.experiment_id, name, self.tags, self.params, seconds=fold.seconds) as child:
            child.log(fold.scores | {"seconds": fold.seconds}, files, fold.curves)
        self.spool.drop(folder)
