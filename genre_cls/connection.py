"""How a store of MLflow's is reached: a server at an address, or a database in a folder."""

import logging
import os
import shlex
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.parse import unquote
from urllib.request import urlopen

from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from genre_cls import database
from genre_cls.errors import UserError, system_reason, without_credentials
from genre_cls.extras import program
from genre_cls.files import expanduser, make_folder, sync

PAGE = "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
RETRIES = "5"  # of a call to a server, with pauses that double: a minute in all; MLflow would try for four


def connect(uri: str, folder: Path) -> MlflowClient:
    """A connection to a store; a database that is not there is made.

    Args:
        uri: of a tracking server or a database; empty for the local store.
        folder: the local store's.

    Raises:
        UserError: no server answers, the database is damaged or locked, or the folder cannot be one.
    """
    _prepare_mlflow()
    address = store_uri(uri, folder)
    if not uri:
        setting, folder = f"tracking.folder={folder}", expanduser(folder).resolve()
        make_folder(folder, setting)
        _make_database(folder)
        database.check(folder)
        database.follow(folder)
    return _client(address)


def store_uri(uri: str, folder: Path) -> str:
    """Address of a store: the server's, or of the database in a folder.

    Raises:
        UserError: MLflow would take the folder's path for another one's.
    """
    path = expanduser(folder).resolve() / database.DATABASE
    if not uri and unquote(str(path).partition("?")[0]) != str(path):
        reason = "must have no question mark in it, and no percent sign before two digits"
        raise UserError(f"tracking.folder={folder}: {path.parent} {reason}; name another one")
    return uri or f"sqlite:///{path}"


def ui_command(uri: str) -> str:
    """What opens MLflow's pages on a store."""
    local = f"{program('mlflow')} ui --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1, then open {PAGE}"
    return local if uri.startswith("sqlite:") else without_credentials(uri)


def _prepare_mlflow() -> None:
    """Have MLflow say nothing that a command tells itself, and give up on a server sooner."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines a run, eighty a sweep
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one a file
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
    # It also logs the traceback of each failure that it raises, which `Tracker.failures_in_one_line` reports.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _client(uri: str) -> MlflowClient:
    """A connection to a store that is known to be there."""
    try:
        if uri.startswith("http"):
            _knock(uri)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:  # the latter while the tables are made
        raise UserError(database.what_failed(uri, error)) from error
    except OSError as error:
        raise UserError(f"tracking.uri={uri}: {system_reason(error)}") from error
    except (ModuleNotFoundError, HTTPException, ValueError) as error:
        raise UserError(f"tracking.uri={uri}: {error}") from error
    return client


def _knock(uri: str) -> None:
    """Fail at once if nobody answers, on which MLflow would spend a minute; whom it knows and trusts is its matter."""
    try:
        urlopen(without_credentials(uri), timeout=10).close()
    except HTTPError:
        pass
    except URLError as error:
        if not isinstance(error.reason, SSLError):
            raise


def _make_database(folder: Path) -> None:
    """Make the folder's database if it is not there."""
    path = folder / database.DATABASE
    if path.exists():
        return
    for chatty in ("alembic", "mlflow.store.db"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Several processes that make the tables at once break each other's migrations, and a kill leaves half of them.
    with FileLock(folder / "mlflow.lock"):
        if not path.exists():
            partial = folder / "mlflow.partial"
            partial.unlink(missing_ok=True)
            _client(f"sqlite:///{partial}")
            partial.replace(path)
            sync(folder)
