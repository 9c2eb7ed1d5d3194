"""Worker processes that run one function on one file, and their limits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imgsvc.workers.one_shot import (
    OneShotLimits,
    OneShotRunner,
    WorkerCrashError,
    WorkerMemoryError,
    WorkerTimeError,
)
from tests.waiting import wait_until

MODULE = "tests.unruly_generators"


@asynccontextmanager
async def open_runner(memory: int = 2**28, seconds: float = 30) -> AsyncIterator[OneShotRunner]:
    runner = OneShotRunner(OneShotLimits(memory, seconds, confined=False))
    try:
        yield runner
    finally:
        runner.close()


@pytest.fixture
def file(tmp_path: Path) -> int:
    path = tmp_path / "file"
    path.write_bytes(b"a\nb\nc\n")
    return os.open(path, os.O_RDONLY)


async def pieces_of(
    runner: OneShotRunner, function: str, file: int, *arguments: object
) -> list[bytes]:
    async with runner.run(f"{MODULE}:{function}", file, *arguments) as pieces:
        return [piece async for piece in pieces]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_pieces_of_a_function_arrive_in_order(file: int) -> None:
    async with open_runner() as runner:
        assert await pieces_of(runner, "lines", file, b"> ") == [b"> a\n", b"> b\n", b"> c\n"]


async def test_each_file_has_a_process_of_its_own(file: int) -> None:
    async with open_runner() as runner:
        (first,) = await pieces_of(runner, "process_id", file)
        (second,) = await pieces_of(runner, "process_id", file)
    assert len({int(first), int(second), os.getpid()}) == 3
    assert not is_running(int(first))


async def test_memory_beyond_the_limit_ends_the_process_only(file: int) -> None:
    async with open_runner(memory=2**27) as runner:
        async with runner.run(f"{MODULE}:eat", file) as pieces:
            assert await anext(pieces)
            with pytest.raises(WorkerMemoryError):
                _ = [await anext(pieces) for _ in range(8)]  # 128 MiB and more
        assert len(await pieces_of(runner, "lines", file, b"")) == 3


async def test_processor_time_beyond_the_limit_ends_the_process(file: int) -> None:
    async with open_runner(seconds=0.5) as runner:
        with pytest.raises(WorkerTimeError):
            await pieces_of(runner, "spin", file)


async def test_crash_is_reported_after_the_pieces_before_it(file: int) -> None:
    async with open_runner() as runner, runner.run(f"{MODULE}:crash", file) as pieces:
        assert await anext(pieces) == b"first"
        with pytest.raises(WorkerCrashError, match="exit code -11"):
            await anext(pieces)


async def test_unexpected_exception_is_reported_with_its_traceback(file: int) -> None:
    async with open_runner() as runner:
        with pytest.raises(WorkerCrashError, match=r"in bug\n(.|\n)*LookupError: unexpected"):
            await pieces_of(runner, "bug", file)


@pytest.mark.parametrize("function", [f"{MODULE}:missing", "tests.missing:lines"])
async def test_missing_function_is_a_crash(file: int, function: str) -> None:
    async with open_runner() as runner:
        with pytest.raises(WorkerCrashError):
            async with runner.run(function, file) as pieces:
                await anext(pieces)


async def test_piece_that_is_too_large_is_a_crash(file: int) -> None:
    async with open_runner() as runner:
        with pytest.raises(WorkerCrashError, match="a frame of 1048577 bytes"):
            await pieces_of(runner, "too_large", file)


@pytest.mark.parametrize("function", ["sleep", "hold"])
async def test_cancelled_reader_kills_the_process(file: int, function: str) -> None:
    async with open_runner() as runner:
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def read() -> None:
            async with runner.run(f"{MODULE}:{function}", file) as pieces:
                async for piece in pieces:
                    started.set_result(int(piece))

        task = asyncio.create_task(read())
        pid = await started
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not is_running(pid)


async def test_cancelled_start_leaves_no_process_and_no_lock(file: int) -> None:
    async with open_runner() as runner:
        for steps in range(6):
            task = asyncio.create_task(pieces_of(runner, "sleep", file))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert len(await pieces_of(runner, "lines", file, b"")) == 3


async def test_process_waits_for_its_reader(file: int, tmp_path: Path) -> None:
    path = tmp_path / "count"
    async with open_runner() as runner, runner.run(f"{MODULE}:count", file, str(path)) as pieces:
        await anext(pieces)
        await wait_until(lambda: int(path.read_text() or 0) >= 1)
        for _ in range(20):  # the process could have sent hundreds of pieces meanwhile
            await anext(pieces)
            assert int(path.read_text() or 0) < 25


async def test_files_are_read_one_at_a_time(file: int) -> None:
    async with open_runner() as runner:
        entered: asyncio.Queue[int] = asyncio.Queue()

        async def read(number: int) -> None:
            async with runner.run(f"{MODULE}:lines", file, b""):
                entered.put_nowait(number)
                await asyncio.Event().wait()

        first = asyncio.create_task(read(1))
        assert await entered.get() == 1
        second = asyncio.create_task(read(2))
        waiting = asyncio.create_task(entered.get())
        await asyncio.wait([waiting, second], timeout=0.2)
        assert not waiting.done()
        first.cancel()
        assert await waiting == 2
        second.cancel()
        await asyncio.wait([first, second])
