"""Test connections to stores: servers that are away, damaged databases, folders that are odd, moved or copied."""

import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
from mlflow import MlflowClient
from stores import QUICKEST, artifacts, found, store

from genre_cls.errors import UserError
from genre_cls.experiments.spool import Spool
from genre_cls.tracking.connection import check_answers, connect, store_uri, ui_command, what_failed
from genre_cls.tracking.database import is_store
from genre_cls.tracking.tracker import Tracker


def test_an_unreachable_server_is_reported_with_the_systems_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^tracking.uri=http://127.0.0.1:9: connection refused$"):
        connect("http://127.0.0.1:9", tmp_path)


def test_the_command_that_opens_mlflows_pages_names_the_store_and_serves_this_machine_only(store_folder: Path) -> None:
    uri = store_uri(None, store_folder)
    assert "--host 127.0.0.1" in ui_command(uri) and ui_command(uri).startswith("env MLFLOW_DISABLE_TELEMETRY=true ")
    assert str(store_folder) in ui_command(uri) and f"'{uri}'" in ui_command(uri)
    assert " --backend-store-uri postgresql://host/runs --host " in ui_command("postgresql://ann:hunter2@host/runs")


def test_ctrl_c_breaks_off_no_call_to_a_database(
    store_folder: Path, monkeypatch: pytest.MonkeyPatch, heeding_ctrl_c: None
) -> None:
    search, found = MlflowClient.search_experiments, []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        found.append(search(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(MlflowClient, "search_experiments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        connect(None, store_folder)
    assert len(found) == 1, "it was completed first"


NO_SERVERS = (
    "http://127.0.0.1:9", "http://127.0.0.1:50OO", "http://[::1", "mlruns", "postgresql://nobody@127.0.0.1:9/none",
)  # fmt: skip


@pytest.mark.parametrize("uri", NO_SERVERS)
def test_an_address_without_a_server_is_reported_at_once(uri: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=re.escape(f"tracking.uri={uri.replace('nobody@', '')}")):
        connect(uri, tmp_path)
    assert time.monotonic() - began < 15


def test_the_address_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^tracking.uri=file:///runs: must begin with .*; a folder is given as tracking.folder=FOLDER$"
    ):
        connect("file:///runs", tmp_path)


def test_a_database_is_found_whatever_options_follow_its_address(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/runs.db?timeout=9"
    assert not is_store(address)
    (tmp_path / "runs.db").touch()
    assert is_store(address)


@pytest.fixture
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, of the name that a test is parametrised by."""
    folder = tmp_path / request.param
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("here", ["run 12:30", "a::b", "Tom's music"], indirect=True)
def test_other_odd_names_of_the_current_folder_are_no_obstacle(here: Path) -> None:
    assert connect(None, here.parent / "store").search_experiments()


@pytest.mark.parametrize("here", ["a :b", "quo'te\"s"], indirect=True)
def test_a_current_folder_from_which_mlflow_makes_no_database_is_named(here: Path) -> None:
    store = here.parent / "store"
    for uri in (None, f"sqlite:///{store}.db"):
        with pytest.raises(UserError, match=re.escape(f"{here}: MLflow makes no store")):
            connect(uri, store)
    assert not (store / "mlflow.partial").exists() and not Path(f"{store}.db").exists()


def test_no_password_of_an_address_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tracking\.uri=http://127\.0\.0\.1:9: ") as told:
        connect("http://me:a@secret@127.0.0.1:9", tmp_path)
    assert "secret" not in str(told.value) and "secret" not in ui_command("https://me:a@secret@server")


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


class _Refusing(_Quiet):
    """A server that refuses everybody and keeps the credentials that were sent."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Refuse."""
        self.asked.append(self.headers.get("Authorization", ""))
        self.send_error(401)

    do_POST = do_GET


def test_the_user_name_and_password_in_an_address_are_sent_to_the_server(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=r"401.*check the address, and your name and password"):
            connect(f"http://me:secret@127.0.0.1:{server.server_port}", tmp_path)
        server.shutdown()
    assert b64encode(b"me:secret").decode() in _Refusing.asked[-1]


@pytest.mark.parametrize("damage", ["garbage", "cut short", "a page of zeros", "another database"])
def test_a_damaged_database_is_reported_at_once_with_what_to_do(store_folder: Path, damage: str) -> None:
    path = store_folder / "mlflow.db"
    content = path.read_bytes()
    damages = {
        "garbage": b"no database" * 1000,
        "cut short": content[: len(content) // 2],
        "a page of zeros": content[:8192] + bytes(4096 * 8) + content[4096 * 10 :],
        "another database": b"",
    }
    path.write_bytes(damages[damage])
    if damage == "another database":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("create table experiments (name text)")
    began = time.monotonic()
    with pytest.raises(UserError, match="restore a backup, or move it away") as told:
        connect(None, store_folder)
    assert str(told.value).startswith(f"{path}: ") and "\n" not in str(told.value)
    assert time.monotonic() - began < 5


def test_a_full_disk_is_no_damage_though_sqlalchemy_says_something_else_first() -> None:
    error = "(raised as a result of autoflush; …)\n(sqlite3.OperationalError) database or disk is full\n[SQL"
    told = what_failed("sqlite:////there/mlflow.db", error)
    assert told.startswith("/there/mlflow.db: (sqlite3.OperationalError) database or disk is full; make room")


def test_an_exceeded_quota_is_no_damage() -> None:
    told = what_failed("sqlite:////there/mlflow.db", "(sqlite3.OperationalError) disk I/O error")
    assert "disk I/O error; check the disk, the quota" in told and "move it away" not in told


@pytest.mark.parametrize(
    ("failure", "hint"),
    [
        ("401 Client Error: Unauthorized", "check the address"),
        ("API request failed with error code 403 != 200", "check the address"),
        ("429 Client Error: Too Many Requests", "run the command again"),
        ("API request failed with error code 429 != 200", "run the command again"),
        ("500 Server Error: Internal", "run the command again"),
    ],
)
def test_a_servers_refusal_is_told_from_what_may_pass(failure: str, hint: str) -> None:
    assert what_failed("http://server", failure).startswith(f"tracking.uri=http://server: {failure}; {hint}")


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_database_that_would_end_with_the_process_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no file, so that the runs would be lost"):
        connect(uri, tmp_path)


def test_ones_own_number_of_retries_is_respected(store_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    connect(None, store_folder)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"


@pytest.mark.parametrize("name", ["50%20off", "who?"])
def test_a_folder_that_mlflow_would_mistake_for_another_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"tracking.folder={tmp_path / name}: ")) as told:
        connect(None, tmp_path / name)
    assert "\n" not in str(told.value) and not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_for_a_store_is_reported_and_leaves_none(small_disk: Callable[..., Path]) -> None:
    folder = small_disk(400) / "mlruns"
    with pytest.raises(UserError, match=r"(?i)full.*make room") as told:
        connect(None, folder)
    assert "\n" not in str(told.value) and not (folder / "mlflow.db").exists()


def test_a_fresh_store_is_one_database_beside_its_artifacts(tracker: Tracker, store_folder: Path) -> None:
    run_id = store(tracker, "a", 1.0)
    assert tracker.uri == store_uri(None, store_folder) == f"sqlite:///{store_folder}/mlflow.db"
    assert artifacts(tracker, run_id).is_relative_to(store_folder / "artifacts")
    assert not (store_folder.parent / "artifacts").exists()
    with sqlite3.connect(store_folder / "mlflow.db") as connection:
        # A write-ahead log needs memory that all processes share, which machines with one network disk do not.
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_store_whose_folder_was_moved_has_all_its_runs_and_is_written_at_its_new_place(
    tracker: Tracker, store_folder: Path
) -> None:
    store(tracker, "a", 1.0)
    moved = store_folder.rename(store_folder.with_name("else where"))
    there = Tracker(None, moved)
    assert found(there) == {"a": 1.0}
    store(there, "b", 0.5)
    assert found(Tracker(None, moved)) == {"a": 1.0, "b": 0.5} and not store_folder.exists()
    for name in ("a", "b"):
        (parent,) = MlflowClient(there.uri).search_runs(["1"], f"tags.kind = 'config' and tags.identity = '{name}'")
        assert artifacts(there, parent.info.run_id).is_relative_to(moved)


def test_a_copied_store_works_though_its_former_place_is_out_of_reach(
    tracker: Tracker, store_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tracker, "a", 1.0)
    shutil.copytree(store_folder, copied := store_folder.with_name("copied"))
    monkeypatch.setattr(Path, "samefile", mock.Mock(side_effect=PermissionError))
    there = Tracker(None, copied)
    (parent,) = MlflowClient(there.uri).search_runs(["1"], "tags.kind = 'config'")
    assert found(there) == {"a": 1.0} and artifacts(there, parent.info.run_id).is_relative_to(copied)


def test_artifacts_whose_place_has_too_long_a_name_leave_the_store_readable(
    tracker: Tracker, store_folder: Path
) -> None:
    store(tracker, "a", 1.0)
    MlflowClient(tracker.uri).create_experiment("long", (store_folder / "artifacts" / (300 * "x")).as_uri())
    assert found(Tracker(None, store_folder)) == {"a": 1.0}


@pytest.mark.parametrize(
    "place", ["file:///elsewhere/e", "file:///elsewhere/artifacts/none", "mlflow-artifacts:/artifacts/e"]
)
def test_artifacts_that_were_not_in_a_store_stay_where_they_are(
    tracker: Tracker, store_folder: Path, place: str
) -> None:
    store(tracker, "a", 1.0)
    kept = MlflowClient(tracker.uri).create_experiment("kept", place)
    there = Tracker(None, store_folder.rename(store_folder.with_name("else where")))
    assert MlflowClient(there.uri).get_experiment(kept).artifact_location == place


def test_moving_a_store_confuses_no_experiments_whose_names_begin_alike(tracker: Tracker, store_folder: Path) -> None:
    runs = {name: store(tracker, name, 1.0, experiment=name) for name in ("e", "e 2", "ee")}
    there = Tracker(None, store_folder.rename(store_folder.with_name("else where")))
    assert all(artifacts(there, run_id).is_dir() for run_id in runs.values())
    assert [found(there, name) for name in runs] == [{name: 1.0} for name in runs]


def test_a_copied_store_is_independent_of_the_original(tracker: Tracker, store_folder: Path) -> None:
    store(tracker, "a", 1.0)
    copy = store_folder.with_name("copy")
    shutil.copytree(store_folder, copy)
    there = Tracker(None, copy)
    new = store(there, "b", 0.5)
    assert artifacts(there, new).is_relative_to(copy) and found(Tracker(None, store_folder)) == {"a": 1.0}
    shutil.rmtree(store_folder)
    assert found(Tracker(None, copy)) == {"a": 1.0, "b": 0.5}


def log_one(folder: Path, name: str, gate: Barrier) -> None:
    gate.wait()
    store(Tracker(None, folder), name, 1.0)


def test_processes_can_make_a_fresh_store_together(tmp_path: Path) -> None:
    folder, gate = tmp_path / "mlruns", QUICKEST.Barrier(3)
    workers = [QUICKEST.Process(target=log_one, args=(folder, name, gate)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert found(Tracker(None, folder)) == dict.fromkeys("abc", 1.0)
    experiments = MlflowClient(store_uri(None, folder)).search_experiments()
    assert sorted(e.name for e in experiments) == ["Default", "e"]


def test_a_store_makes_no_folder_where_the_command_runs(
    tmp_path: Path, store_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert found(Tracker(None, store_folder)) == {} and store(Tracker(None, store_folder), "a", 1.0)
    assert not list(elsewhere.iterdir())


def test_a_store_may_be_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Tracker(None, Path("~/runs"))
    Spool(Path("~/runs"), "key").put(0, {"fold.json": b"{}"})
    assert (tmp_path / "runs" / "mlflow.db").exists() and (tmp_path / "runs" / "spool" / "key" / "0").is_dir()


def test_a_store_is_in_its_folder_whatever_that_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "50% off, a#b & my 'music' ä" / "mlruns"
    store(Tracker(None, folder), "a", 1.0)
    assert found(Tracker.at(str(folder))) == {"a": 1.0}
    assert (folder / "mlflow.db").exists() and list(tmp_path.iterdir()) == [folder.parent]


def test_a_database_whose_creation_was_killed_is_created_again(tmp_path: Path) -> None:
    folder = tmp_path / "mlruns"
    folder.mkdir()
    with sqlite3.connect(folder / "mlflow.partial") as connection:
        connection.execute("create table experiments (experiment_id integer)")
    tracker = Tracker(None, folder)
    assert store(tracker, "a", 1.0) and found(tracker) == {"a": 1.0}
    assert not (folder / "mlflow.partial").exists()


class _Answering(_Quiet):
    """A server that has one run, whatever it is asked."""

    def do_GET(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        info = {"run_id": "a", "artifact_uri": "mlflow-artifacts:/a", "experiment_id": "1", "status": "RUNNING"}
        answer = json.dumps({"run": {"info": info, "data": {}}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET


def test_a_server_that_dies_is_tried_again_for_the_call_that_fails_only_and_this_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracker = Tracker(f"http://127.0.0.1:{server.server_port}", tmp_path)
        with (
            pytest.raises(UserError, match="Connection refused"),
            tracker.failures_in_one_line(),
            tracker.run("1", "a run", {}, {}) as run,
        ):
            server.shutdown()
            server.server_close()
            run.log({"accuracy": 1.0}, {})
    assert caplog.messages == ["the tracking server does not answer; it is tried again"]


def test_of_what_else_is_said_of_connections_only_errors_are_shown(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("urllib3.connectionpool").warning("Connection pool is full, discarding connection: %s", "a host")
    logging.getLogger("urllib3.connectionpool").error("Connection broken: %s", "a host")
    assert caplog.messages == ["Connection broken: a host"]


def test_a_certificate_is_left_to_mlflow_which_may_be_told_to_accept_it() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as server:  # without any, which fails in the same way
        threading.Thread(target=server.serve_forever, daemon=True).start()
        check_answers(f"https://127.0.0.1:{server.server_port}")
        server.shutdown()
