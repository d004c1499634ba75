"""MLflow's store in a folder, without MLflow: whether its database is sound, where its files are, and ways out."""

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

# What SQLite says, to what can be done about it; the last one is for all else.
WAYS_OUT = {
    "full": "make room; the same command then goes on",
    "readonly|unable to open": "make the folder writable; the same command then goes on",
    "locked": "another program keeps it to itself; the same command goes on when that has ended",
    "": (
        "put a copy of it back, or move it away and start with a new one, for which all is trained anew; "
        "what was logged as files stays in artifacts/ beside it"
    ),
}


def is_there(folder: str | Path) -> bool:
    """Whether a folder, which may begin with `~`, holds a store."""
    return (expanduser(folder) / DATABASE).exists()


def is_store(tracking: str | Path) -> bool:
    """Whether a tracking store is in a folder, or may be at an address; a look at what is not there leaves no trace."""
    address = str(tracking)
    if address.startswith("sqlite:///"):
        return Path(address.removeprefix("sqlite:///")).exists()
    return "://" in address or is_there(address)


def check(folder: Path) -> None:
    """Tell a damaged database before the work; MLflow would try for minutes to open it.

    Args:
        folder: of the store.

    Raises:
        UserError: it is damaged, locked or read-only.
    """
    path = folder / DATABASE
    try:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            connection.execute("SELECT version_num FROM alembic_version")  # MLflow's
    except sqlite3.OperationalError as error:  # locked, read-only
        raise UserError(what_failed(f"sqlite:///{path}", error)) from error
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise UserError(what_failed(f"sqlite:///{path}", f"is damaged ({found})"))


def follow(folder: Path) -> None:
    """Rewrite the absolute artifact paths that MLflow stores, so that a folder that was moved or copied finds its own.

    Args:
        folder: of the store, an absolute path.
    """
    with closing(sqlite3.connect(folder / DATABASE)) as connection, connection, suppress(sqlite3.OperationalError):
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
    return now.as_uri() if now.is_dir() and not (before.exists() and before.samefile(now)) else None


def local_path(artifacts: str) -> Path | None:
    """The path of artifacts at this URI; None if a server keeps them."""
    if urlparse(artifacts).scheme not in ("", "file"):
        return None
    return Path(url2pathname(artifacts.removeprefix("file://")))


def what_failed(uri: str, failure: object) -> str:
    """One line on what a store has failed in: where, why, and the way out.

    Args:
        uri: of the store, a database or a server.
        failure: what came out of it.
    """
    reason = in_one_line(str(failure).strip().partition("\n")[0])
    if not uri.startswith("sqlite:"):
        return f"tracking.uri={uri}: {reason}; the same command goes on when it answers"
    path = uri.removeprefix("sqlite:///")
    way_out = next(way_out for words, way_out in WAYS_OUT.items() if re.search(words, reason))
    return f"{path}: {reason}; {way_out}"
