"""Ctrl-C is held back, never lost, and leaves the process as it was."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from genre_cls.processes import workers
from genre_cls.processes.interrupts import (
    ends_at_once,
    held_back,
    raise_again,
    raising_ctrl_c_again,
    terminated_likewise,
)
from genre_cls.tracking import connection

pytestmark = pytest.mark.usefixtures("heeding_ctrl_c")  # as commands do


def interrupt() -> None:
    """Send the signal to this thread: another one might take it only when the test is over."""
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


def test_it_takes_effect_at_the_end_of_the_outermost_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        with held_back():
            interrupt()
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_after_the_block_all_is_as_before() -> None:
    for come in (False, True):
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        try:
            with held_back():
                assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # as children inherit it
                if come:
                    interrupt()
        except KeyboardInterrupt:
            assert come
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_an_error_in_the_block_is_not_lost_behind_it() -> None:
    with pytest.raises(KeyboardInterrupt) as raised, held_back():
        interrupt()
        raise ValueError("in the block")
    assert isinstance(raised.value.__context__, ValueError)


@pytest.fixture
def interrupt_elsewhere() -> Callable[[], None]:
    """Have a thread that began before take the signal, as it has not blocked it."""
    begin = threading.Event()

    def take() -> None:
        begin.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()

    def interrupt() -> None:
        begin.set()
        thread.join()

    return interrupt


def test_one_that_another_thread_takes_is_held_back_too(interrupt_elsewhere: Callable[[], None]) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        interrupt_elsewhere()
        done.append("block")
    assert done == ["block"]


def test_another_thread_may_use_it() -> None:
    masks: list[set[signal.Signals]] = []

    def block() -> None:
        with held_back():
            masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))  # type: ignore[arg-type]

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert signal.SIGINT in masks[0] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_it_is_ignored_it_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held_back():
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


DROPPED = """
import os, signal, sys
from genre_cls import {module} as command

signal.signal(signal.SIGINT, signal.{handler})

def drop_it():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass
    print("went on")
    command.raise_again()
    os.kill(os.getpid(), signal.SIGINT)
    print("and on")

command.{job} = drop_it
command.main()
"""


@pytest.mark.parametrize("handler", ["default_int_handler", "SIG_IGN"])
@pytest.mark.parametrize(("module", "job"), [("train", "evaluate_one"), ("report", "report_only")])
def test_while_settings_are_composed_it_ends_a_command_though_omegaconf_drops_exceptions_unless_it_is_ignored(
    module: str, job: str, handler: str
) -> None:
    script = DROPPED.format(module=module, job=job, handler=handler)
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    expected = (0, "went on\nand on\n", "") if handler == "SIG_IGN" else (130, "", "interrupted\n")
    assert (done.returncode, done.stdout, done.stderr) == expected


def test_once_there_is_something_to_end_it_is_raised() -> None:
    with ends_at_once():
        raise_again()
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_after_the_command_it_is_raised_as_before_though_nothing_had_begun() -> None:
    with ends_at_once():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_is_like_ctrl_c_even_if_that_is_ignored(handler: Any) -> None:
    signal.signal(signal.SIGINT, handler)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_likewise():
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_is_held_back_like_ctrl_c() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), terminated_likewise(), held_back():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("block")
    assert done == ["block"]


def test_what_else_python_drops_is_told_as_before() -> None:
    told: list[Any] = []
    dropped: Any = SimpleNamespace(exc_type=ValueError)
    raising_ctrl_c_again(told.append)(dropped)
    assert told == [dropped]


@pytest.mark.parametrize("uri", [None, "http://127.0.0.1:9"])
def test_a_call_on_a_local_store_is_not_broken_off_and_one_on_a_server_is(
    fresh_store: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None
) -> None:
    done = []

    def call(self: MlflowClient, **_: object) -> None:
        interrupt()
        done.append("call")

    monkeypatch.setattr(MlflowClient, "search_experiments", call)
    monkeypatch.setattr(connection, "check_answers", lambda uri: None)
    with pytest.raises(KeyboardInterrupt):
        connection.connect(uri, fresh_store)
    assert done == ([] if uri else ["call"])


def test_a_worker_that_is_being_started_is_not_forgotten(
    interrupt_elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    done, submit = [], ProcessPoolExecutor.submit

    def interrupted(*arguments: Any) -> Any:
        interrupt_elsewhere()
        future = submit(*arguments)
        done.append(future)
        return future

    monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            workers.call(1, os.getpid, purpose="a test")
        assert len(done) == 1 and len(workers._pools["a test"].executor._processes) == 1
    finally:
        workers.stop()
