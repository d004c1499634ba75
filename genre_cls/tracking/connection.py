"""Connect to an MLflow store: a server at an address, or a database in a folder."""

import inspect
import logging
import os
import re
import shlex
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.parse import unquote
from urllib.request import urlopen

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from urllib3.util import Retry

from genre_cls.errors import UserError, in_one_line, system_reason, without_credentials
from genre_cls.extras import program
from genre_cls.files import expanduser, locked, make_folder, sync
from genre_cls.processes.interrupts import held_back
from genre_cls.tracking import database

PAGE = "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
SILENT = "MLFLOW_DISABLE_TELEMETRY=true"  # for programs of MLflow's own that a user starts
PARAMETER = r"(?<![:\w\\]):\w+(?![:\w])"  # what SQLAlchemy takes for one in a text
RETRIES = "5"  # of a call to a server, with doubling pauses: one minute in all; MLflow's default takes four


def connect(uri: str | None, folder: str | Path) -> MlflowClient:
    """Return a connection to a store; a missing local database is created.

    Args:
        uri: of a tracking server or a database; None for the local store.
        folder: of the local store.

    Raises:
        UserError: the address is malformed or names no file, no server answers, the database is damaged or locked, or
            the folder cannot hold a store.
    """
    _prepare_mlflow()
    address = store_uri(uri, folder)
    if "://" not in address or address.startswith("file:"):
        shown = address.rpartition("@")[2]  # there may be a password before it
        reason = "must begin with http:// or https://, or a database's sqlite:///"
        raise UserError(f"tracking.uri={shown}: {reason}; a folder is given as tracking.folder=FOLDER")
    if not uri:
        place = make_folder("tracking.folder", folder).resolve()
        _make_database(place)
        database.check(place)
        database.rewrite_locations(place)
    return _client(address)


def store_uri(uri: str | None, folder: str | Path) -> str:
    """Return the URI of a store: the server's, or that of the database in a folder.

    Raises:
        UserError: the folder is an address, or MLflow would mistake its path for another one.
    """
    if uri:
        return uri
    if match := re.match(r"[A-Za-z]{2,}:/", str(folder)):  # there may be a password behind it
        raise UserError(f"tracking.folder={match[0]}…: is an address and no folder; give it as tracking.uri")
    path = expanduser(folder).resolve() / database.DATABASE
    if unquote(str(path).partition("?")[0]) != str(path):
        reason = "must have no question mark in it, and no percent sign before two digits"
        raise UserError(f"tracking.folder={folder}: {path.parent} {reason}; name another one")
    return f"sqlite:///{path}"


def ui_command(uri: str) -> str:
    """Return how to look at a store: a server's address, or the command that serves a database's pages, and theirs."""
    if uri.startswith("http"):
        return without_credentials(uri)
    serve = f"env {SILENT} {program('mlflow')} ui --backend-store-uri {shlex.quote(without_credentials(uri))}"
    return f"{serve} --host 127.0.0.1\nthen open {PAGE}"


def mlflow_command(uri: str, words: str) -> str:
    """Return a command of MLflow's own for a store, such as `experiments restore -x 1`."""
    store = shlex.quote(f"MLFLOW_TRACKING_URI={without_credentials(uri)}")
    return f"env {SILENT} {store} {program('mlflow')} {words}"


def _prepare_mlflow() -> None:
    """Silence what commands report themselves, and let MLflow give up on a server sooner."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines per run, eighty per sweep
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one per file
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
    logging.getLogger("urllib3.connectionpool").addFilter(_say_once_that_it_is_tried_again)
    # MLflow logs a failure's traceback and then raises it; `StoredRuns.failures_in_one_line` reports what is raised.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _say_once_that_it_is_tried_again(record: logging.LogRecord) -> bool:
    """Let a call to a server that is tried again be logged once, rather than at each try by urllib3."""
    retry = next(iter(record.args or ()), None)
    if not isinstance(retry, Retry):
        return record.levelno >= logging.ERROR
    record.msg, record.args = "the tracking server does not answer; it is tried again", ()
    return len(retry.history) == 1


def _client(uri: str) -> MlflowClient:
    """Connect to a server, or to a database that exists or that MLflow is to create."""
    try:
        check_answers(uri)
        if uri.startswith("sqlite"):
            _check_database(uri)
        client = _unbroken(uri) if uri.startswith("sqlite:") else MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:  # the latter while tables are created
        raise UserError(what_failed(uri, error)) from error
    except OSError as error:
        raise UserError(f"tracking.uri={uri}: {system_reason(error)}") from error
    except (ModuleNotFoundError, HTTPException, ValueError) as error:
        raise UserError(f"tracking.uri={uri}: {error}") from error
    return client


def _check_database(uri: str) -> None:
    """Refuse a database in memory, and a new one where MLflow makes none, writing this folder into SQL by `repr`."""
    path, here = make_url(uri).database, str(Path.cwd())
    if path in (None, "", ":memory:"):
        raise UserError(f"tracking.uri={uri}: names no file, so that the runs would be lost; name one")
    if not Path(path).exists() and (re.search(PARAMETER, here) or {"'", '"'} <= set(here)):
        raise UserError(
            f"{here}: MLflow makes no store from a folder of such a name; go to another one for the first run"
        )


def what_failed(uri: str, failure: object) -> str:
    """Return one line on the failure of a store: where, why, and what to do about it.

    Args:
        uri: of the store, a database or a server.
        failure: an exception or its message.
    """
    if uri.startswith("sqlite:"):
        return database.what_failed(uri.removeprefix("sqlite:///"), failure)
    return server_failed(uri, str(failure).strip().partition("\n")[0])


def server_failed(uri: str, failure: object) -> str:
    """Return one line on the failure of a server, as `what_failed` does.

    Args:
        uri: of the store, which may be a database whose files a server keeps.
        failure: an exception or its message.
    """
    reason = in_one_line(failure)
    refused = re.search(r"error code 4(?!29)|4(?!29)\d\d Client Error", reason)  # but for too many requests
    hint = "check the address, and your name and password" if refused else "run the command again when it answers"
    return f"tracking.uri={uri}: {reason}; {hint}"


@held_back()
def _unbroken(uri: str) -> MlflowClient:
    """Connect to an SQLite database, during whose calls Ctrl-C is held back.

    A call that is broken off leaves its transaction open: the next one fails, or waits 20 s for the database.
    """
    client = MlflowClient(uri)
    for name, _ in inspect.getmembers(MlflowClient, inspect.isfunction):
        if not name.startswith("_"):
            setattr(client, name, held_back()(getattr(client, name)))
    return client


def check_answers(uri: str, timeout: float = 10) -> None:
    """Fail at once if no server answers, for which MLflow would wait a minute.

    Args:
        uri: of a store; nothing is done for a database, and passwords are left to MLflow.
        timeout: s.

    Raises:
        OSError: no server answers.
    """
    if not uri.startswith("http"):
        return
    try:
        urlopen(without_credentials(uri), timeout=timeout).close()
    except HTTPError:
        pass
    except URLError as error:
        if not isinstance(error.reason, SSLError):
            raise


def _make_database(folder: Path) -> None:
    """Create the folder's database if it is missing."""
    path = folder / database.DATABASE
    if path.exists():
        return
    for name in ("alembic", "mlflow.store.db"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Processes that create tables at the same time break each other's migrations, and a kill leaves half of them.
    with locked(folder / "mlflow.lock", str(path)):
        if not path.exists():
            partial = folder / "mlflow.partial"
            partial.unlink(missing_ok=True)
            _client(f"sqlite:///{partial}")
            partial.replace(path)
            sync(folder)
