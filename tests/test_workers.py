"""Worker processes: kept between calls, called in order, ended when something fails."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from forks import gone

from genre_cls.errors import UserError
from genre_cls.processes import workers
from genre_cls.processes.workers import call, results, stop, stopped_by_failure

on_forks = pytest.mark.skipif(workers.METHOD != "forkserver", reason="workers are not forked here")


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """No workers before a test, and none after it."""
    stop()
    yield
    stop()


def test_workers_return_results_and_are_kept_while_their_number_stays() -> None:
    assert sorted(results([call(2, divmod, n, 7) for n in range(20)])) == [divmod(n, 7) for n in range(20)]
    first = set(results([call(2, os.getpid) for _ in range(20)]))
    again = set(results([call(2, os.getpid) for _ in range(20)]))
    assert len(first | again) <= 2 and os.getpid() not in first
    (other,) = set(results([call(1, os.getpid)]))
    assert other not in first and all(map(gone, first))


def test_workers_for_another_purpose_are_others_and_end_together() -> None:
    (first,) = results([call(1, os.getpid)])
    (other,) = results([call(1, os.getpid, purpose="drawing")])
    assert other != first and list(results([call(1, os.getpid)])) == [first]
    stop()
    assert gone(first) and gone(other)


def test_workers_of_all_purposes_are_killed_before_any_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pids = [next(results([call(1, os.getpid, purpose=purpose)])) for purpose in ("training", "drawing")]
    shut_down, left = workers._shut_down, []

    def noted(pool: Any) -> None:
        left.append([pid for pid in pids if not gone(pid, seconds=2)])
        shut_down(pool)

    monkeypatch.setattr(workers, "_shut_down", noted)
    stop()
    assert left == [[], []]


def test_workers_for_another_purpose_do_not_count_as_training() -> None:
    list(results([call(1, os.getpid, purpose="drawing")]))
    assert not workers.has_pool()
    list(results([call(1, os.getpid)]))
    assert workers.has_pool()


def test_workers_have_the_environment_at_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    list(results([call(1, os.getpid)]))  # after which the fork server runs
    monkeypatch.setenv("SET_SINCE", "yes")
    assert list(results([call(2, os.getenv, "SET_SINCE")])) == ["yes"]


def test_calls_begin_in_the_order_in_which_they_come() -> None:
    calls = [call(1, time.monotonic_ns) for _ in range(9)]
    begun = [next(results([each])) for each in calls]
    assert begun == sorted(begun)


def test_a_call_that_fails_cancels_those_with_it_that_have_not_begun_but_no_others() -> None:
    failing = [call(1, int, "seven"), *(call(1, time.sleep, 0.2) for _ in range(9))]
    other = call(1, abs, -3)
    with pytest.raises(ValueError, match="seven"):
        list(results(failing))
    assert sum(each.cancelled() for each in failing) >= 5
    assert list(results([other])) == [3]


def test_a_worker_that_is_killed_is_reported_in_one_line_and_there_are_new_ones() -> None:
    with pytest.raises(UserError, match=r"a worker process was killed; if memory was short, trainer\.workers=1"):
        list(results([call(2, os._exit, 9), call(2, time.sleep, 5)]))
    assert list(results([call(2, abs, -3)])) == [3]


def test_a_worker_that_crashes_is_told_from_one_that_is_killed() -> None:
    with pytest.raises(UserError, match=r"a worker process crashed \(SIGSEGV\)"):
        list(results([call(2, signal.raise_signal, signal.SIGSEGV), call(2, time.sleep, 5)]))
    assert list(results([call(2, abs, -3)])) == [3]


@on_forks
def test_a_crash_is_told_from_a_kill_even_where_it_is_heard_of_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork server tells a worker's end once; whoever asks second, at the same time, takes it for lost."""
    from multiprocessing import forkserver

    told = forkserver.read_signed
    monkeypatch.setattr(forkserver, "read_signed", lambda pipe: time.sleep(0.3) or told(pipe))
    with pytest.raises(UserError, match="SIGSEGV"):
        list(results([call(1, signal.raise_signal, signal.SIGSEGV)]))


def test_a_worker_that_was_killed_between_two_calls_is_reported_too_and_there_are_new_ones() -> None:
    (pid,) = set(results([call(1, os.getpid)]))
    os.kill(pid, signal.SIGTERM)
    with pytest.raises(UserError, match="a worker process was killed"):
        for _ in range(100):  # until the pool has noticed
            call(1, abs, -3)
            time.sleep(0.05)
    assert list(results([call(1, abs, -3)])) == [3]


@pytest.mark.parametrize("stopped", [True, False])
def test_calls_that_a_broken_pool_has_lost_are_not_waited_for(stopped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool whose workers are killed during a submission or a cancellation never completes some calls."""
    monkeypatch.setattr(workers, "PATIENCE", 0.1)
    list(results([call(1, abs, -3)]))
    for process in active_children():
        process.kill()
    if stopped:
        stop()
    with pytest.raises(UserError, match="a worker process was killed"):
        list(results([Future()]))
    assert list(results([call(1, time.sleep, 1)])) == [None]


def killed_while_it_sends() -> None:
    """End a worker when the main process has received half of its result."""
    pool_worker = sys._getframe(2)  # the frame of concurrent.futures' loop, the caller of this function's caller
    os.write(pool_worker.f_locals["result_queue"]._writer.fileno(), (1000).to_bytes(4, "big") + b"some of them")
    os._exit(9)


def test_a_worker_that_is_killed_while_it_sends_a_result_is_reported_and_python_can_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.1)
    before = set(threading.enumerate())
    with pytest.raises(UserError, match="a worker process was killed"):
        list(results([call(2, killed_while_it_sends), call(2, abs, -3)]))
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    assert list(results([call(2, abs, -3)])) == [3]


class Unreadable:
    """An object that cannot be unpickled, such as features that were deleted meanwhile."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path("not there").stat, ()


def test_a_call_that_a_worker_cannot_unpickle_is_reported_and_the_worker_goes_on() -> None:
    with pytest.raises(FileNotFoundError, match="not there"):
        list(results([call(1, repr, Unreadable())]))
    assert list(results([call(1, abs, -3)])) == [3]


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals")
def test_ctrl_c_never_reaches_workers_even_as_they_start_but_the_main_process(capfd: Any, heeding_ctrl_c: None) -> None:
    calls = [call(2, time.sleep, 0.5) for _ in range(4)]
    with pytest.raises(KeyboardInterrupt):
        for process in active_children():
            os.kill(process.pid or 0, signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert list(results(calls)) == [None] * 4
    assert capfd.readouterr() == ("", "")


GIVEN_UP = """
import time
from contextlib import suppress
from genre_cls.processes.workers import call, results, stopped_by_failure
calls = [call(2, time.sleep, 0.001) for _ in range(3000)]
with suppress(KeyboardInterrupt), stopped_by_failure():
    for done, _ in enumerate(results(calls)):
        if done == 50:
            raise KeyboardInterrupt
time.sleep(1)
"""


def test_nothing_is_printed_about_calls_that_were_cancelled_when_workers_end() -> None:
    done = subprocess.run([sys.executable, "-c", GIVEN_UP], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")


class Demanding(Exception):
    """An exception that cannot be unpickled, as it takes a keyword argument."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)


def failing_demandingly() -> None:
    raise Demanding(reason="the moon is full")


def test_an_exception_that_cannot_be_pickled_is_reported_with_its_type_and_message() -> None:
    with pytest.raises(RuntimeError, match="Demanding: the moon is full"):
        list(results([call(1, failing_demandingly)]))


UNREAD = """
import os, signal, time
from genre_cls.processes import workers
from genre_cls.errors import UserError
workers.PATIENCE = 0.5
(pid,) = workers.results([workers.call(1, os.getpid)])
call, *others = workers.call(1, time.sleep, 60), *(workers.call(1, len, b"1" * 300_000) for _ in range(9))
time.sleep(0.5)  # until what they are sent fills the pipe
for each in others:
    each.cancel()
os.kill(pid, signal.SIGKILL)
try:
    list(workers.results([call]))
except UserError as error:
    print(error)
"""


def test_python_can_exit_though_workers_were_killed_with_much_unread() -> None:
    done = subprocess.run([sys.executable, "-c", UNREAD], capture_output=True, text=True, check=True, timeout=60)
    assert "a worker process was killed" in done.stdout and done.stderr == ""


AHEAD = """
import sys
from multiprocessing import forkserver
from genre_cls.processes.workers import call, import_ahead, results, stop
import_ahead(*sys.argv[1:])
print(forkserver._forkserver._forkserver_pid, flush=True)
print(*results([call(2, eval, "'colorsys' in __import__('sys').modules")]), flush=True)
stop()
"""


@on_forks
@pytest.mark.parametrize("modules", [(), ("colorsys",)])
def test_modules_imported_ahead_are_loaded_when_workers_begin(modules: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-c", AHEAD, *modules], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == str(bool(modules))


def test_garbage_collections_of_workers_leave_out_what_was_imported() -> None:
    (n_left_out,) = results([call(1, gc.get_freeze_count)])
    assert n_left_out > 1000
    assert list(results([call(1, gc.isenabled)])) == [True]


@pytest.mark.parametrize("variable", ["TMPDIR", "TEMP", "TMP"])
def test_workers_begin_where_the_folder_of_temporary_files_has_a_long_name(tmp_path: Path, variable: str) -> None:
    (folder := tmp_path / ("x" * 100)).mkdir()
    code = "from genre_cls.processes.workers import call, results; print(*results([call(1, abs, -3)]))"
    environment = {name: value for name, value in os.environ.items() if name not in ("TMPDIR", "TEMP", "TMP")}
    environment[variable] = str(folder)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "3\n", done.stderr


@on_forks
def test_the_fork_server_ends_with_a_main_process_that_is_killed_even_during_its_imports(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import time; time.sleep(60)")
    main = subprocess.Popen([sys.executable, "-c", AHEAD, "endless"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert main.stdout
    server = int(main.stdout.readline())
    time.sleep(1)  # or it would not even have begun to import
    main.kill()
    main.communicate()
    assert gone(server)


@on_forks
def test_ctrl_c_does_not_reach_the_fork_server(tmp_path: Path, heeding_ctrl_c: None) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(2)")
    main = subprocess.Popen(
        [sys.executable, "-c", AHEAD, "slow"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert main.stdout
    server = int(main.stdout.readline())
    os.kill(server, signal.SIGINT)  # as it starts
    time.sleep(1)
    os.kill(server, signal.SIGINT)  # as it imports
    out, err = main.communicate(timeout=60)
    assert (out, err, main.returncode) == ("False\n", "", 0)


@pytest.mark.parametrize("failure", [UserError, KeyboardInterrupt])
def test_no_failure_waits_for_running_calls(failure: type[BaseException]) -> None:
    (pid,) = set(results([call(1, os.getpid)]))
    call(1, time.sleep, 60)
    began = time.monotonic()
    with pytest.raises(failure), stopped_by_failure():
        raise failure
    assert gone(pid) and time.monotonic() - began < 10 and not workers._pools
