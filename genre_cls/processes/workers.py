"""Worker processes that compute in parallel for this one, and end with it.

Nothing heavy is imported, so that a worker can end even while it starts.
"""

import atexit
import gc
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, InvalidStateError, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, parent_process, resource_tracker
from typing import Any, NamedTuple

from genre_cls.errors import UserError
from genre_cls.processes.interrupts import held_back

# Workers are forked from a process that has imported what they need and done nothing else. On systems other than Linux
# some imported libraries do not survive a fork. Nor has Python a socket for that process if its name is too long: 107
# bytes at most, of which the folder of temporary files may take 75.
TAKEN = max(len(os.fsencode(os.environ.get(name, ""))) for name in ("TMPDIR", "TEMP", "TMP"))
METHOD = "forkserver" if sys.platform == "linux" and TAKEN <= 75 else "spawn"

PATIENCE = 5.0  # s without a result, or to end a pool, after which it may never come

INTERVAL = 1.0  # s between two checks whether a parent still lives

TRAINING = "training"  # the usual purpose of workers

KILLED = "a worker process was killed; if memory was short, trainer.workers=1 takes less"
CRASHED = "a worker process crashed ({}), often by a mistake in a library or in a model's own compiled code"
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


class _Pool(NamedTuple):
    n_workers: int
    executor: ProcessPoolExecutor


_pools: dict[str, _Pool] = {}  # by purpose


def import_ahead(*modules: str) -> None:
    """Start importing what workers will need, once for all of them, while this process does something else.

    Where workers are not forked, each imports it when needed.

    Args:
        modules: to import; nothing that does not survive a fork, such as code that initialises a GPU.
    """
    if METHOD == "forkserver" and len(os.sched_getaffinity(0)) > 1:
        from multiprocessing import forkserver  # not on every system

        forkserver.set_forkserver_preload(["genre_cls.processes.die_with_parent", *modules])
        with _without_interrupts():
            forkserver.ensure_running()


def call(size: int, function: Callable[..., Any], *arguments: Any, purpose: str = TRAINING) -> Future[bytes]:
    """Submit a function call to a pool of workers, which begins calls in the order of submission.

    Workers are kept for later calls, so that their imports are paid for once.

    Args:
        size: number of workers for this purpose; if it differs from the pool's, all workers of all purposes end first.
        function: a module-level function.
        arguments: for it.
        purpose: of the workers; each purpose has a pool of its own.

    Returns:
        A future for `results`.

    Raises:
        UserError: a worker was killed since the last call.
    """
    if purpose in _pools and _pools[purpose].n_workers != size:
        stop()
    if purpose not in _pools:
        threading.excepthook = _report_failure
        executor = ProcessPoolExecutor(size, get_context(METHOD), _begin, (dict(os.environ),))
        _pools[purpose] = _Pool(size, executor)
    try:
        with _without_interrupts():  # inherited by workers that start now, whose traceback Python would print otherwise
            return _pools[purpose].executor.submit(_pickled, pickle.dumps((function, arguments)))
    except (BrokenProcessPool, EOFError, ConnectionError) as error:  # the latter two if the fork server has died
        raise UserError(_stopped_after_death()) from error


def results(calls: Iterable[Future[bytes]]) -> Iterator[Any]:
    """Yield the results of calls as they complete; if one fails, cancel those that have not begun.

    Args:
        calls: what `call` has returned.

    Raises:
        UserError: a worker was killed, such as by a system that is short of memory.
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
        raise UserError(_stopped_after_death()) from error
    finally:
        for each in waiting:
            each.cancel()


def _check_alive() -> None:
    # Python does not notice a worker that is killed while it sends a result, or during a submission.
    sentinels = [process.sentinel for process in _workers()]
    if not sentinels or connection.wait(sentinels, timeout=0):
        raise BrokenProcessPool


def _workers() -> list[Any]:
    executors = [pool.executor for pool in list(_pools.values())]
    return [process for executor in executors for process in list((executor._processes or {}).values())]


def _stopped_after_death() -> str:
    """Stop all workers, of which one has died, and say how it did."""
    workers = _workers()
    stop()  # first, or the pool's own thread may take the exit codes
    deaths = {-(process.exitcode or 0) for process in workers}
    crash = next((crash for crash in CRASHES if crash in deaths), None)
    return CRASHED.format(crash.name) if crash else KILLED


def has_pool() -> bool:
    """Return whether there are workers that train; if not, earlier calls were lost when `stop` ended them."""
    return TRAINING in _pools


@contextmanager
def stopped_by_failure() -> Iterator[None]:
    """End the workers if the block fails or is interrupted; Python would wait for their current calls."""
    try:
        yield
    except BaseException:
        stop()
        raise


def stop() -> None:
    """Kill all workers at once, whatever they are doing."""
    processes = _workers()  # of all pools, so that none works on while another pool is waited for
    while _pools:
        _, pool = _pools.popitem()
        executor: Any = pool.executor
        # Even on exit Python waits until workers have read all their calls, and for the rest of a result being sent.
        executor._call_queue.cancel_join_thread()
        writer = executor._result_queue._writer
        shutdown = threading.Thread(target=_shut_down, args=(executor,), daemon=True)
        shutdown.start()
        for process in processes:
            process.kill()
        with suppress(OSError):  # the pool may have closed it
            writer.close()
        shutdown.join(PATIENCE)  # if Python exits meanwhile, it may find the pool half shut down and print a traceback


def _shut_down(executor: ProcessPoolExecutor) -> None:
    with suppress(OSError):  # `stop` may close the same pipe at the same time
        executor.shutdown(cancel_futures=True)


def _report_failure(failure: threading.ExceptHookArgs) -> None:
    """Ignore InvalidStateError, which a pool of Python 3.11 raises over calls that were cancelled before `stop`."""
    if failure.exc_type is not InvalidStateError:
        threading.__excepthook__(failure)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold back Ctrl-C, so that no worker is forgotten while it starts; workers keep it blocked."""
    resource_tracker.ensure_running()  # first, as Python unblocks signals after starting it
    with held_back():
        yield


def end_with(parent: int) -> None:
    """Make this process, a launcher's worker, end soon after its parent, even if that is killed.

    Otherwise workers train on when that happens, and then wait for ever. Launchers start them in ways that leave
    no handle to wait for, as our own workers have, so the parent's process id is polled.

    Args:
        parent: process id.
    """
    threading.Thread(target=_exit_once_reparented, args=(parent,), daemon=True).start()


def _exit_once_reparented(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    os._exit(1)


def _begin(environment: dict[str, str]) -> None:
    gc.freeze()  # collections write to each object that they visit, and what was imported is shared until it is written
    gc.enable()
    threading.Thread(target=_exit_after_parent, daemon=True).start()
    os.environ |= environment  # the main process's now, rather than when the fork server started
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the main process, which ends the workers
    atexit.register(os._exit, 0)  # or Python unloads everything, when no thread watches for the parent's end any more


def _exit_after_parent() -> None:
    """End with the process that started this one by `multiprocessing`, even if another forked it."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _pickled(request: bytes) -> bytes:
    # Pickled here, as torch's own way sends each tensor as an open file of shared memory, of which systems allow few,
    # and as a worker that cannot unpickle its call by itself would die.
    function, arguments = pickle.loads(request)
    try:
        return pickle.dumps(function(*arguments))
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # one that cannot be unpickled in the main process would break the pool
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise
