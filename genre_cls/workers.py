"""Processes that work side by side for this one. Nothing heavy is imported: one can be ended while it still starts."""

import atexit
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, InvalidStateError, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import active_children, connection, get_context, resource_tracker
from typing import Any

from genre_cls.errors import UserError
from genre_cls.lifeline import end_with_parent

# Workers are forks of a process that has imported all and done nothing else. On other systems than Linux what is
# imported does not survive a fork.
METHOD = "forkserver" if sys.platform == "linux" else "spawn"

PATIENCE = 5.0  # s, after which a result, or a pool's end, that has not come may be one that never will

TRAINING = "training"  # what workers are usually for

KILLED = "a worker process was killed; if memory was short, trainer.workers=1 takes less"

_pools: dict[tuple[str, int], ProcessPoolExecutor] = {}  # by what they are for, one at most each, and their size


def import_ahead(*modules: str) -> None:
    """Begin to import what workers will need, once for all of them, while this process does something else.

    Where workers are no forks, each imports it when it is needed.

    Args:
        modules: that import nothing that would mind a fork, such as what begins to use a GPU.
    """
    if METHOD == "forkserver" and len(os.sched_getaffinity(0)) > 1:
        from multiprocessing import forkserver  # which not every system has

        forkserver.set_forkserver_preload(["genre_cls.die_with_parent", *modules])
        with _interrupts_waiting():
            forkserver.ensure_running()


def call(size: int, function: Callable[..., Any], *arguments: Any, purpose: str = TRAINING) -> Future[bytes]:
    """Have one of some workers call a function, after all calls before it.

    Workers are kept for later calls, in which what they have imported is there.

    Args:
        size: how many workers there are to be for this purpose; if there are others, all workers end.
        function: one of a module's own.
        arguments: for it.
        purpose: what they are for; those for another one are beside them.

    Raises:
        UserError: a worker was killed since the last call.
    """
    if (purpose, size) not in _pools:
        if any(purpose == other for other, _ in _pools):
            stop()
        threading.excepthook = _report_failure
        _pools[purpose, size] = ProcessPoolExecutor(size, get_context(METHOD), _begin, (dict(os.environ),))
    try:
        with _interrupts_waiting():  # as workers that start then do, which Python would let tell it with a traceback
            return _pools[purpose, size].submit(_pickled, pickle.dumps((function, arguments)))
    except (BrokenProcessPool, EOFError, ConnectionError) as error:  # the latter where what they are forks of has died
        stop()
        raise UserError(KILLED) from error


def results(calls: Iterable[Future[bytes]]) -> Iterator[Any]:
    """What some calls give, as it comes; if one fails, those that have not begun are given up.

    Raises:
        UserError: a worker was killed, as a system does that is short of memory.
    """
    waiting = set(calls)
    try:
        while waiting:
            finished, waiting = wait(waiting, PATIENCE, FIRST_COMPLETED)
            for each in finished:
                yield pickle.loads(each.result())
            if not finished:
                _check_alive()
    except (BrokenProcessPool, CancelledError) as error:
        stop()
        raise UserError(KILLED) from error
    finally:
        for each in waiting:
            each.cancel()


def _check_alive() -> None:
    # Python does not notice a worker that is killed while it sends a result, or while the pool is called.
    workers = [process.sentinel for pool in list(_pools.values()) for process in list(pool._processes.values())]
    if not workers or connection.wait(workers, timeout=0):
        raise BrokenProcessPool


def at_hand() -> bool:
    """Whether there are workers that train: of calls before they were stopped nothing will come."""
    return any(purpose == TRAINING for purpose, _ in _pools)


@contextmanager
def stopped_by_failure() -> Iterator[None]:
    """End the workers if what happens inside fails or is interrupted; Python would wait for what they are at."""
    try:
        yield
    except BaseException:
        stop()
        raise


def stop() -> None:
    """End all workers at once, whatever they are at."""
    while _pools:
        pool: Any = _pools.popitem()[1]
        # Even to exit Python waits until all that workers are asked for is read, and for the rest of what one sends.
        pool._call_queue.cancel_join_thread()
        given = pool._result_queue._writer
        ending = threading.Thread(target=_shut_down, args=(pool,), daemon=True)
        ending.start()
        for process in active_children():
            process.kill()
        with suppress(OSError):  # the pool may have closed it
            given.close()
        ending.join(PATIENCE)  # Python that leaves meanwhile may find the pool half taken apart, and tell it


def _shut_down(pool: ProcessPoolExecutor) -> None:
    with suppress(OSError):  # `stop` may close the same pipe at the same time
        pool.shutdown(cancel_futures=True)


def _report_failure(failure: threading.ExceptHookArgs) -> None:
    """Say nothing of calls that were given up before their workers ended: a pool of Python 3.11 fails over them."""
    if failure.exc_type is not InvalidStateError:
        threading.__excepthook__(failure)


@contextmanager
def _interrupts_waiting() -> Iterator[None]:
    """Hold back Ctrl-C, also from the processes that start meanwhile, for good."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    resource_tracker.ensure_running()  # first, as Python lets signals through again once it has started that
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(environment: dict[str, str]) -> None:
    end_with_parent()
    os.environ |= environment  # as it is now, rather than when the process that workers are forks of began
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the main process, which ends the others
    atexit.register(os._exit, 0)  # or Python takes all apart that is loaded, with nobody left who looks for the parent


def _pickled(asked: bytes) -> bytes:
    # By itself torch would send each tensor as an open file of shared memory, of which systems allow few, and a worker
    # that cannot read what it is sent would die of it.
    function, arguments = pickle.loads(asked)
    try:
        return pickle.dumps(function(*arguments))
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # of a failure that cannot be made anew in the main process the pool would break
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise
