"""Ctrl-C is held back, never lost, and leaves the process as it was."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from genre_cls.connection import connect
from genre_cls.interrupts import held_back


@pytest.fixture(autouse=True)
def handler_of_a_command() -> Iterator[None]:
    """What a command has; a job that a shell has put into the background ignores the signal instead."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


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


def test_one_that_another_thread_takes_is_held_back_too() -> None:
    begin, done = threading.Event(), []

    def take() -> None:
        begin.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=take)
    thread.start()
    with pytest.raises(KeyboardInterrupt), held_back():
        begin.set()
        thread.join()
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


def test_no_call_on_a_database_is_broken_off(fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, done, search = connect(None, fresh_store), [], MlflowClient.search_experiments

    def interrupted(self: MlflowClient, **arguments: object) -> object:
        interrupt()
        done.append("call")
        return search(self, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "search_experiments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.search_experiments(max_results=1)
    assert done == ["call"]
