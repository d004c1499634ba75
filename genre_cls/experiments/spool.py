"""Keep finished folds on disk until the tracking store has them, so that nothing is lost while it is away.

A fold is a folder `<tracking.folder>/spool/<resume_key>/<index>` with the files that become its run's artifacts.
"""

import json
import logging
import shutil
from collections.abc import Container, Mapping
from hashlib import blake2b
from pathlib import Path

from genre_cls.errors import UserError, in_one_line
from genre_cls.evaluation.predictions import FoldResult
from genre_cls.files import disk_failure, expanduser, sync, write_atomically
from genre_cls.tracking.artifacts import DAMAGED, load_fold

log = logging.getLogger(__name__)

SUMS = "sums.json"  # holds the other files' checksums; no artifact itself


class Spool:
    """The folds of one configuration that are not logged yet, for the process that has claimed its key.

    Only `put` may be called without that claim, by the process that has claimed the fold.

    Args:
        folder: `tracking.folder`.
        key: of the claim.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.path = expanduser(folder).resolve() / "spool" / key

    def put(self, index: int, files: Mapping[str, bytes]) -> None:
        """Keep all files of a fold, or none.

        Args:
            index: of the fold.
            files: contents by file name.

        Raises:
            UserError: the disk is full or read-only.
        """
        partial = self.path / f"{index}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            sums = json.dumps({name: _sum(content) for name, content in files.items()}).encode()
            for name, content in (*files.items(), (SUMS, sums)):
                write_atomically(partial / name, content)
            partial.rename(self.path / str(index))
            sync(self.path, self.path.parent, self.path.parent.parent)  # these folders may be new
        except OSError as error:
            raise UserError(disk_failure(self.path, error)) from error

    def folders(self) -> list[Path]:
        """Return the folders of complete folds, by index."""
        paths = self.path.iterdir() if self.path.is_dir() else ()
        return sorted((path for path in paths if path.name.isdecimal()), key=lambda path: int(path.name))

    def folds(self, logged: Container[int]) -> dict[int, FoldResult]:
        """Load the folds that an earlier command has finished but not logged; delete damaged and logged ones.

        Args:
            logged: indices of the folds that the store has.

        Returns:
            Folds by index.
        """
        folds = {}
        for folder in self.folders():
            try:
                self.files(folder)
                if (fold := load_fold(folder)).index not in logged:
                    folds[fold.index] = fold
                    continue
            except DAMAGED as error:  # a failing disk is no sign of a damaged fold
                log.warning("%s: is damaged and trained again: %s", folder, in_one_line(error))
            self.drop(folder)
        return folds

    def files(self, folder: Path) -> dict[str, bytes]:
        """Return the files of a fold by name.

        Args:
            folder: one of `folders`.

        Raises:
            ValueError, LookupError: a file is damaged or missing.
        """
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        if json.loads(files.pop(SUMS)) != {name: _sum(content) for name, content in files.items()}:
            raise ValueError("does not match its checksums")
        return files

    def drop(self, folder: Path) -> None:
        """Delete a fold, because the store has it or it is damaged."""
        shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}.partial")))  # a kill then leaves no half fold

    def clear(self) -> None:
        """Delete all folds, incomplete ones included."""
        shutil.rmtree(self.path, ignore_errors=True)


def _sum(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
