"""The outbox: folds leave the spool when the store has them, and not before."""

from pathlib import Path
from unittest import mock

import pytest
from made import a_result
from mlflow.exceptions import MlflowException

from genre_cls.experiments.outbox import Outbox, Pictures
from genre_cls.experiments.spool import Spool
from genre_cls.tracking.artifacts import fold_files

FOLDS = a_result(0.9, 0.8, 0.7).folds


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """With three folds."""
    spool = Spool(tmp_path, "key")
    for fold in FOLDS:
        spool.put(fold.index, fold_files(fold))
    return spool


def an_outbox(spool: Spool, tracker: mock.Mock) -> Outbox:
    pictures = mock.Mock(spec=Pictures, **{"of.return_value": {}, "pending.return_value": False})
    return Outbox(spool, pictures, tracker, "0", {}, {})


def left(spool: Spool) -> list[str]:
    return [folder.name for folder in spool.folders()]


def test_a_store_that_is_away_is_not_tried_again_before_the_end_and_loses_no_fold(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = mock.MagicMock(**{"run.side_effect": MlflowException("the store is away")})
    outbox = an_outbox(spool, tracker)
    for _ in range(3):
        outbox.flush_if_possible()
    assert tracker.run.call_count == 1 and left(spool) == ["0", "1", "2"]
    assert caplog.messages == [f"not logged yet, kept in {spool.path}: the store is away"]
    with pytest.raises(MlflowException):
        outbox.flush()
    tracker.run.side_effect = None
    outbox.flush()
    assert left(spool) == []


def test_a_fault_of_the_program_is_no_store_that_is_away(spool: Spool) -> None:
    with pytest.raises(ZeroDivisionError):
        an_outbox(spool, mock.MagicMock(**{"run.side_effect": ZeroDivisionError})).flush_if_possible()


def test_a_fold_whose_pictures_are_being_drawn_is_logged_later(spool: Spool) -> None:
    outbox = an_outbox(spool, mock.MagicMock())
    outbox.pictures.pending.side_effect = [False, True, False]  # type: ignore[attr-defined]
    outbox.flush_if_possible()
    assert left(spool) == ["1"]
