"""Check, move and diagnose an MLflow store in a folder, without importing MLflow."""

import os
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from genre_cls.errors import UserError, in_one_line
from genre_cls.files import expanduser

DATABASE = "mlflow.db"
LOCATIONS = (  # tables and columns with absolute paths of artifacts; the last ones are of MLflow 3
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)

# Patterns of SQLite's messages and what to do about them; the last one matches everything else.
HINTS = {
    "full": "make room and run the command again",
    # What SQLite says of an exceeded quota or limit on files' sizes, too.
    "disk I/O": "check the disk, the quota and the limit on a file's size (ulimit -f), and run the command again",
    "readonly|unable to open": "make the folder writable and run the command again",
    "locked": "another program has locked it; run the command again when it has finished",
    "": (
        "restore a backup, or move it away: everything is then trained again; logged files stay in artifacts/ beside it"
    ),
}


def has_database(folder: str | Path) -> bool:
    """Whether a folder, which may begin with `~`, holds a store."""
    return (expanduser(folder) / DATABASE).exists()


def is_store(tracking: str | Path) -> bool:
    """Whether a folder holds a tracking store, or an address may be one; nothing is created."""
    address = str(tracking)
    if address.startswith("sqlite:///"):
        return Path(address.removeprefix("sqlite:///").partition("?")[0]).exists()
    return "://" in address or has_database(address)


def check(folder: Path) -> None:
    """Report a damaged database before the work begins; MLflow would try for minutes to open it.

    Args:
        folder: of the store.

    Raises:
        UserError: it is damaged, locked or read-only.
    """
    path = folder / DATABASE
    try:
        with closing(sqlite3.connect(path)) as connection:
            state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            connection.execute("SELECT version_num FROM alembic_version")  # MLflow's
    except sqlite3.OperationalError as error:  # locked, read-only
        raise UserError(what_failed(path, error)) from error
    except sqlite3.DatabaseError as error:
        state = str(error)
    if state != "ok":
        raise UserError(what_failed(path, f"is damaged ({state})"))


def rewrite_locations(folder: Path) -> None:
    """Rewrite the absolute artifact paths that MLflow stores, so that a folder that was moved or copied finds its own.

    Args:
        folder: of the store, an absolute path; if its database is locked, read-only or damaged, nothing is done.
    """
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(folder / DATABASE)) as connection, connection:
        locations = connection.execute("SELECT artifact_location FROM experiments").fetchall()
        moves = [(location, new) for (location,) in locations if (new := _new_location(location, folder))]
        for table, column in LOCATIONS:
            statement = (
                f"UPDATE {table} SET {column} = ?2 || substr({column}, length(?1) + 1) "
                f"WHERE {column} = ?1 OR substr({column}, 1, length(?1) + 1) = ?1 || '/'"
            )
            connection.executemany(statement, moves)


def _new_location(location: str, folder: Path) -> str | None:
    """The URI of an experiment's artifacts in the store's present folder; None if they are where the database says."""
    before = local_path(location)
    if not before or before.parent.name != "artifacts":
        return None
    now = folder / "artifacts" / before.name
    return now.as_uri() if _is_elsewhere(now, before) else None


def _is_elsewhere(now: Path, before: Path) -> bool:
    """Whether there is a folder at a path, and not at its former one, which may be gone or out of reach."""
    try:
        return os.path.isdir(now) and not before.samefile(now)  # noqa: PTH112, as pathlib's fails for a long name
    except OSError:
        return True


def local_path(artifacts: str) -> Path | None:
    """The path of artifacts at this URI; None if a server keeps them."""
    if urlparse(artifacts).scheme not in ("", "file"):
        return None
    return Path(url2pathname(artifacts.removeprefix("file://")))


def what_failed(path: str | Path, failure: object) -> str:
    """Return one line on the failure of a database: where, why, and what to do about it.

    Args:
        path: of the database.
        failure: an exception or its message.
    """
    lines = str(failure).strip().split("\n")
    reason = in_one_line(next((line for line in lines if "sqlite3." in line), lines[0]))  # after SQLAlchemy's own
    hint = next(hint for pattern, hint in HINTS.items() if re.search(pattern, reason))
    return f"{path}: {reason}; {hint}"
