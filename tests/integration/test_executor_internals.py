"""The private parts of the standard library's executor that `workers/` uses.

A new version of Python may change them: then these tests fail first. docs/explanation/decisions/0011
says why the public interface is not enough.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any

import pytest

from imgsvc.workers.process_context import NeverFullSemaphore, ProcessLocalLock, worker_context

TIMEOUT_SECONDS = 60.0
MORE_THAN_PIPE_HOLDS = 3 * 2**20


@pytest.fixture
def executor() -> Iterator[Any]:
    """Provide an executor as the pool creates it, with a running worker. Any: its parts are private."""
    with ProcessPoolExecutor(1, mp_context=worker_context()) as executor:
        executor.submit(os.getpid).result(TIMEOUT_SECONDS)
        yield executor


def exit_halfway(pipe: Connection, message: bytes) -> None:
    os.write(pipe.fileno(), struct.pack("!i", len(message)) + message[:10])
    os._exit(3)


def exit_while_sending_result() -> None:
    Connection._send_bytes = exit_halfway  # type: ignore[attr-defined]


def close_worker_ends(executor: Any) -> None:
    executor._result_queue._writer.close()
    executor._call_queue._reader.close()


def test_executor_has_one_process_and_both_ends_of_two_pipes(executor: Any) -> None:
    ((pid, process),) = executor._processes.items()
    assert pid == process.pid == executor.submit(os.getpid).result(TIMEOUT_SECONDS)
    assert process.exitcode is None
    assert isinstance(process.sentinel, int)
    for queue in (executor._result_queue, executor._call_queue):
        for pipe in (queue._reader, queue._writer):
            assert isinstance(pipe, Connection)
            assert pipe.fileno() >= 0


def test_queues_use_locks_of_context_instead_of_named_semaphores(executor: Any) -> None:
    for queue in (executor._result_queue, executor._call_queue):
        assert isinstance(queue._rlock, ProcessLocalLock)
        assert isinstance(queue._wlock, ProcessLocalLock)
    assert isinstance(executor._call_queue._sem, NeverFullSemaphore)


def test_executor_sends_and_receives_after_worker_ends_are_closed(executor: Any) -> None:
    close_worker_ends(executor)
    for size in (1, MORE_THAN_PIPE_HOLDS):
        result = executor.submit(bytes.upper, b"a" * size).result(TIMEOUT_SECONDS)
        assert result == b"A" * size


def test_executor_breaks_if_worker_exits_while_sending_result(executor: Any) -> None:
    close_worker_ends(executor)
    future = executor.submit(exit_while_sending_result)
    with pytest.raises(BrokenProcessPool):
        future.result(TIMEOUT_SECONDS)


def test_executor_waits_for_rest_of_result_unless_worker_ends_are_closed(executor: Any) -> None:
    """If this fails, Python has fixed it: closing the ends in `WorkerProcess.start` is superfluous."""
    (process,) = executor._processes.values()
    future = executor.submit(exit_while_sending_result)
    process.join(TIMEOUT_SECONDS)
    assert process.exitcode == 3
    assert not wait([future], timeout=1).done
    close_worker_ends(executor)
    with pytest.raises(BrokenProcessPool):
        future.result(TIMEOUT_SECONDS)
