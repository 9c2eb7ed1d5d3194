"""Tests of the worker pool with real processes that crash, hang, use memory, and are killed."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from imgsvc.config import CompressConfig
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressedImage, CompressionSettings
from imgsvc.workers.pool import PoolClosedError, WorkerPool
from imgsvc.workers.process_limits import NICENESS
from imgsvc.workers.worker_process import SLOW_SECONDS, CompressionJob, WorkerProcess
from tests.origin import ROOT
from tests.sample_images import encoded
from tests.waiting import block_until, wait_until

SETTINGS = CompressionSettings()
MAX_NICE = 19
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@asynccontextmanager
async def open_pool(
    workers: int = 2, *, module: str = "tests.faulty_worker", **config: float
) -> AsyncIterator[WorkerPool]:
    settings = CompressConfig.model_validate({"workers": workers, **config})
    pool = WorkerPool(settings, function=f"{module}:compress", confined=False)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close(0)


class Images:
    """Scripts for `tests.faulty_worker`, by name, with the number of attempts to compress each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / name

    def data(self, name: str, actions: str = "") -> bytes:
        return f"{self.path(name)} {actions}".encode()

    def attempts(self, name: str) -> int:
        path = self.path(name)
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path)


async def error_code(work: asyncio.Future[CompressedImage]) -> ImageErrorCode:
    """Await a failing compression and return its error code."""
    with pytest.raises(ImageError) as caught:
        await work
    return caught.value.code


def worker_exits(caplog: pytest.LogCaptureFixture) -> int:
    """Return how many workers have ended unexpectedly, according to the log."""
    return sum(record.message == "a worker ended unexpectedly" for record in caplog.records)


def parents() -> dict[int, int]:
    """Return the parent of each running process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry.name)] = int(fields[1])
    return found


def descendants(pid: int) -> set[int]:
    """Return all descendants of a process."""
    parent_of = parents()
    found = {pid}
    while more := {child for child, parent in parent_of.items() if parent in found} - found:
        found |= more
    return found - {pid}


def fork_server() -> int:
    """Return the process id of the fork server, which starts the workers."""
    (server,) = (
        pid
        for pid, parent in parents().items()
        if parent == os.getpid() and "forkserver" in command_of(pid)
    )
    return server


def command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


# --- results, crashes and limits of images ------------------------------------------------------


async def test_two_workers_compress_images_in_parallel(images: Images) -> None:
    async with open_pool(2) as pool:
        assert pool.healthy
        assert pool.workers == 2
        both = [
            pool.compress(
                images.data("a", f"touch={images.path('A')} wait={images.path('B')}"), SETTINGS
            ),
            pool.compress(
                images.data("b", f"touch={images.path('B')} wait={images.path('A')}"), SETTINGS
            ),
        ]
        async with asyncio.timeout(20):
            assert [output.data for output in await asyncio.gather(*both)] == [b"done"] * 2


async def test_stderr_output_of_libraries_is_discarded(
    images: Images, capfd: pytest.CaptureFixture[str]
) -> None:
    async with open_pool(1) as pool:
        await pool.compress(images.data("a", "print=noise"), SETTINGS)
    assert "noise" not in capfd.readouterr().err


async def test_image_error_of_worker_is_raised(images: Images) -> None:
    async with open_pool(1) as pool:
        with pytest.raises(ImageError, match="corrupt_image: it is cut off"):
            await pool.compress(images.data("a", "refuse"), SETTINGS)


async def test_failed_image_is_freed_without_garbage_collection(images: Images) -> None:
    """An image may have many megabytes, so it must not stay in memory until a collection."""
    data = images.data("a", "refuse")
    references = sys.getrefcount(data)
    gc.disable()
    try:
        async with open_pool(1) as pool:
            with suppress(ImageError):
                await pool.compress(data, SETTINGS)
            await wait_until(lambda: sys.getrefcount(data) == references, "the image to be freed")
    finally:
        gc.enable()


async def test_unexpected_exception_is_logged_and_raised_as_internal_error(
    images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pool(1) as pool:
        with pytest.raises(ImageError, match="LookupError") as caught:
            await pool.compress(images.data("a", "bug"), SETTINGS)
        assert caught.value.code == ImageErrorCode.INTERNAL
        assert "unexpected" in caplog.records[-1].__dict__["traceback"]


async def test_result_that_cannot_be_sent_fails_only_its_image(images: Images) -> None:
    async with open_pool(1) as pool:
        bad = asyncio.create_task(pool.compress(images.data("bad", "unpicklable"), SETTINGS))
        good = [pool.compress(images.data(f"good{i}"), SETTINGS) for i in range(6)]
        assert len(await asyncio.gather(*good)) == 6
        assert await error_code(bad) == ImageErrorCode.INTERNAL


@pytest.mark.parametrize("actions", ["exit", "signal=SIGSEGV", "signal=SIGABRT", "signal=SIGKILL"])
async def test_image_that_crashes_three_workers_is_quarantined_and_others_complete(
    images: Images, actions: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pool(1) as pool:
        for number in range(
            20
        ):  # an owner's images are sent alone until they are known to be quick
            await pool.compress(images.data(f"before{number}"), SETTINGS)
        first = asyncio.create_task(pool.compress(images.data("first", "sleep=0.01"), SETTINGS))
        await asyncio.sleep(0)  # the other images wait and are sent in one batch
        good = [
            asyncio.create_task(pool.compress(images.data(f"good{i}"), SETTINGS)) for i in range(3)
        ]
        await asyncio.sleep(0)
        bad = asyncio.create_task(pool.compress(images.data("bad", actions), SETTINGS))
        good += [
            asyncio.create_task(pool.compress(images.data(f"good{i}"), SETTINGS))
            for i in range(3, 12)
        ]
        await asyncio.gather(first, *good)
        assert await error_code(bad) == ImageErrorCode.COMPRESS_CRASHED
        assert images.attempts("bad") == 3
        # Images in the batch of the first crash are retried once. After that, the bad image is alone.
        assert max(images.attempts(f"good{i}") for i in range(12)) == 2
        assert worker_exits(caplog) == 3
        assert (await pool.compress(images.data("after"), SETTINGS)).data == b"done"


async def test_image_is_retried_if_worker_exits_while_sending_its_result(images: Images) -> None:
    flag = images.path("flag")
    async with open_pool(1) as pool, asyncio.timeout(20):
        assert (
            await pool.compress(images.data("a", f"once={flag} half"), SETTINGS)
        ).data == b"done"
        assert images.attempts("a") == 2


async def test_all_crashing_images_are_quarantined_and_others_complete(images: Images) -> None:
    async with open_pool(2) as pool:
        work = [
            asyncio.create_task(
                pool.compress(images.data(f"i{i}", "exit" if i % 5 == 0 else ""), SETTINGS)
            )
            for i in range(20)
        ]
        done = await asyncio.gather(*work, return_exceptions=True)
        failed = [i for i, result in enumerate(done) if isinstance(result, ImageError)]
        assert failed == [0, 5, 10, 15]
        assert all(images.attempts(f"i{i}") == 3 for i in failed)


@pytest.mark.parametrize("actions", ["hang", "hold"])
async def test_timeout_kills_hanging_worker_and_fails_only_its_image(
    images: Images, actions: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pool(1, timeout_seconds=0.5) as pool:
        work = [
            asyncio.create_task(
                pool.compress(images.data(f"i{i}", actions if i == 3 else "sleep=0.05"), SETTINGS)
            )
            for i in range(8)
        ]
        assert await error_code(work.pop(3)) == ImageErrorCode.COMPRESS_TIMEOUT
        assert len(await asyncio.gather(*work)) == 7
        assert images.attempts("i3") == 1
        assert worker_exits(caplog) == 1


async def test_timeout_applies_to_each_image_not_to_batch(
    images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pool(1, timeout_seconds=0.6) as pool:
        work = [pool.compress(images.data(f"i{i}", "sleep=0.15"), SETTINGS) for i in range(12)]
        assert len(await asyncio.gather(*work)) == 12
        assert worker_exits(caplog) == 0


@linux_only
async def test_memory_limit_fails_only_that_image_and_worker_continues(
    images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pool(1, worker_memory_bytes=300 * 2**20) as pool:
        work = [
            asyncio.create_task(pool.compress(images.data("small", f"eat={100 << 20}"), SETTINGS)),
            asyncio.create_task(pool.compress(images.data("again", f"eat={100 << 20}"), SETTINGS)),
            # The last of its batch: a busy machine makes others slow, and moves what is before them.
            asyncio.create_task(pool.compress(images.data("large", f"eat={400 << 20}"), SETTINGS)),
        ]
        assert await error_code(work.pop()) == ImageErrorCode.OUT_OF_MEMORY
        await asyncio.gather(*work)
        await pool.compress(images.data("after", f"eat={100 << 20}"), SETTINGS)
        assert images.attempts("large") == 1
        assert worker_exits(caplog) == 0


async def test_images_behind_slow_image_move_to_another_worker(images: Images) -> None:
    gate = images.path("gate")
    async with open_pool(2) as pool:
        work = [
            asyncio.create_task(
                pool.compress(images.data(f"i{i}", f"wait={gate}" if i == 0 else ""), SETTINGS)
            )
            for i in range(12)
        ]
        async with asyncio.timeout(20):
            await asyncio.gather(*work[1:])
        assert not work[0].done()
        gate.touch()
        await work[0]
        assert images.attempts("i0") == 1


async def quick_beside(
    pool: WorkerPool, images: Images, others: int, actions: str
) -> tuple[int, list[asyncio.Task[CompressedImage]]]:
    """Compress ten quick images of one owner beside other images of another owner, on two workers.

    Return how many of the others had started when the last quick image was compressed, in addition to
    those that had started before, and their tasks.
    """

    def started() -> int:
        return sum(images.attempts(f"other{number}") > 0 for number in range(others))

    tasks = [
        asyncio.create_task(
            pool.compress(images.data(f"other{number}", actions), SETTINGS, owner=1)
        )
        for number in range(others)
    ]
    await wait_until(lambda: started() == 2, "both workers to be busy")
    await asyncio.gather(
        *(pool.compress(images.data(f"quick{number}"), SETTINGS, owner=2) for number in range(10))
    )
    return started() - 2, tasks


async def test_ten_quick_images_wait_for_one_slow_image_per_worker(images: Images) -> None:
    """They are compressed within the time of two slow images, although 40 of those came first."""
    async with open_pool(2) as pool, asyncio.timeout(60):
        more, tasks = await quick_beside(pool, images, 40, f"sleep={1.5 * SLOW_SECONDS}")
        assert more <= 2
        assert sum(task.done() for task in tasks) <= 4
        for task in tasks:
            task.cancel()


async def test_ten_quick_images_wait_for_one_timeout_per_worker(images: Images) -> None:
    async with open_pool(2, timeout_seconds=1.5) as pool, asyncio.timeout(60):
        more, tasks = await quick_beside(pool, images, 12, "hang")
        assert more <= 2
        assert sum(task.done() for task in tasks) <= 4
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_message_to_worker_has_images_of_one_owner(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[set[int]] = []
    send = WorkerProcess.send

    def record(worker: WorkerProcess, jobs: Sequence[CompressionJob], *arguments: Any) -> None:
        owners.append({job.owner for job in jobs})
        send(worker, jobs, *arguments)

    monkeypatch.setattr(WorkerProcess, "send", record)
    async with open_pool(1) as pool:
        for _ in range(3):  # at first, images are sent alone until their time is known
            await asyncio.gather(
                *(
                    pool.compress(images.data(f"i{number}"), SETTINGS, owner=number % 3)
                    for number in range(60)
                )
            )
    assert {len(each) for each in owners} == {1}
    assert len(owners) < 180  # some messages have several images


async def test_image_cancelled_while_waiting_is_never_compressed(
    images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    gate = images.path("gate")
    async with open_pool(1) as pool:
        work = [
            asyncio.create_task(pool.compress(images.data(f"i{i}", f"wait={gate}"), SETTINGS))
            for i in range(4)
        ]
        await wait_until(lambda: images.attempts("i0"), "the first image to start")
        assert pool.busy == 1
        assert not any(images.attempts(f"i{i}") for i in (1, 2, 3))
        work[3].cancel()
        with pytest.raises(asyncio.CancelledError):
            await work[3]
        work[0].cancel()  # started: it is compressed and its output discarded
        gate.touch()
        await asyncio.gather(*work[1:3])
        assert images.attempts("i3") == 0
        assert worker_exits(caplog) == 0


# --- workers that end for other reasons ----------------------------------------------------------


@linux_only
async def test_randomly_killed_workers_fail_no_image(images: Images) -> None:
    chance = random.Random(6)
    async with open_pool(2) as pool:
        work = asyncio.gather(
            *(
                pool.compress(images.data(f"i{i}", "sleep=0.01 large=200000"), SETTINGS)
                for i in range(400)
            )
        )
        killed = 0
        while not work.done():
            await asyncio.sleep(chance.uniform(0.02, 0.2))
            if workers := descendants(fork_server()):
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(sorted(workers)), signal.SIGKILL)
                killed += 1
        assert len(await work) == 400
        assert killed > 5
        assert pool.healthy


@linux_only
async def test_images_complete_after_fork_server_is_killed(
    images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    padding = "x" * 200_000  # more than a pipe holds
    async with open_pool(2) as pool:
        work = [
            asyncio.create_task(
                pool.compress(images.data(f"i{i}", f"sleep=0.05 {padding}"), SETTINGS)
            )
            for i in range(30)
        ]
        await wait_until(lambda: any(task.done() for task in work), "the first image")
        server = fork_server()
        workers = descendants(server)
        os.kill(server, signal.SIGKILL)
        assert len(await asyncio.gather(*work)) == 30
        assert len(workers) == 2
        await wait_until(lambda: not alive(workers), "the old workers to end")
        assert worker_exits(caplog) == 2


async def test_pool_is_unhealthy_until_its_workers_start(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(images.folder))
    module = images.path("missing_module.py")
    async with open_pool(2, module="missing_module") as pool:
        assert not pool.healthy
        work = asyncio.create_task(pool.compress(images.data("a"), SETTINGS))
        module.write_text("from tests.faulty_worker import compress")
        assert (await work).data == b"done"
        assert pool.healthy


async def test_worker_is_replaced_after_process_ran_out_of_file_descriptors(
    images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with open_pool(1) as pool:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            pool._running[0].kill()
            await wait_until(lambda: "a worker did not start" in caplog.text, "a failed start")
            assert not pool.healthy
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await pool.compress(images.data("a"), SETTINGS)).data == b"done"
        assert pool.healthy


async def test_start_does_not_block_event_loop(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(images.folder))
    started, gate = images.path("started"), images.path("gate")
    images.path("slow_start.py").write_text(
        "from tests.faulty_worker import compress, wait_for\n"
        f"def warm_up():\n    open({str(started)!r}, 'w')\n    wait_for({str(gate)!r})\n"
    )
    pool = WorkerPool(CompressConfig(workers=1), function="slow_start:compress", confined=False)
    start = asyncio.create_task(pool.start())
    await wait_until(started.exists, "the worker to warm up")
    work = asyncio.create_task(pool.compress(images.data("a"), SETTINGS))
    await asyncio.sleep(0)
    assert not start.done()
    assert images.attempts("a") == 0
    gate.touch()
    await start
    await work
    await pool.close(0)


async def test_pool_can_be_closed_during_start(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(images.folder))
    started = images.path("started")
    images.path("never_starts.py").write_text(
        "from tests.faulty_worker import compress, wait_for\n"
        f"def warm_up():\n    open({str(started)!r}, 'w')\n    wait_for({str(started)!r} + '.never')\n"
    )
    pool = WorkerPool(CompressConfig(workers=1), function="never_starts:compress", confined=False)
    start = asyncio.create_task(pool.start())
    await wait_until(started.exists, "the worker to warm up")
    async with asyncio.timeout(20):
        await pool.close(10)
        await start


# --- closing -------------------------------------------------------------------------------------


async def test_close_waits_for_sent_images_and_drops_waiting_ones(images: Images) -> None:
    gate = images.path("gate")
    async with open_pool(1) as pool:
        work = [
            asyncio.create_task(pool.compress(images.data(f"i{i}", f"wait={gate}"), SETTINGS))
            for i in range(3)
        ]
        await wait_until(lambda: images.attempts("i0"), "the first image to start")
        closing = asyncio.create_task(pool.close(20))
        with pytest.raises(PoolClosedError):
            await work[2]
        with pytest.raises(PoolClosedError):
            await pool.compress(images.data("late"), SETTINGS)
        gate.touch()
        assert (await work[0]).data == b"done"
        assert (await work[1]).data == b"done"
        await closing


@linux_only
async def test_close_kills_worker_that_exceeds_grace(images: Images) -> None:
    async with open_pool(1) as pool:
        pid = int((await pool.compress(images.data("pid", "pid"), SETTINGS)).data)
        work = asyncio.create_task(pool.compress(images.data("a", "hold"), SETTINGS))
        await wait_until(lambda: images.attempts("a"), "the image to start")
        await pool.close(0.1)
        with pytest.raises(PoolClosedError):
            await work
        await wait_until(lambda: pid not in descendants(os.getpid()), "the worker to end")


MAIN = """
import asyncio, signal, sys
from imgsvc.config import CompressConfig
from imgsvc.image_types import CompressionSettings
from imgsvc.workers.pool import WorkerPool

async def main():
    function = {function!r}
    pool = WorkerPool(CompressConfig(workers=2), function=function, confined="tests" not in function)
    await pool.start()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: print("signal", flush=True))
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        data = bytes.fromhex(line.decode())
        output = await pool.compress(data, CompressionSettings())
        print(output.info.output_format, "PIL" in sys.modules, flush=True)
    await pool.close(5)
    print("closed", flush=True)

if __name__ == "__main__":
    asyncio.run(main())
"""


class Main:
    """A separate main process with a pool, the leader of its process group."""

    def __init__(self, images: Images, function: str = "tests.faulty_worker:compress") -> None:
        script = images.path("main.py")
        script.write_text(MAIN.format(function=function))
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data.hex().encode() + b"\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if command_of(pid)}


@linux_only
@pytest.mark.parametrize("actions", ["", "hang", "hold"])
def test_all_child_processes_end_if_main_process_is_killed(images: Images, actions: str) -> None:
    with Main(images) as main:
        main.send(images.data("a", actions))
        block_until(lambda: images.attempts("a"), "the image to start", 20)
        block_until(lambda: len(descendants(main.process.pid)) == 4, "all processes to start", 20)
        processes = descendants(main.process.pid)
        main.process.kill()
        block_until(lambda: not alive(processes), "all processes to end", 10)


@linux_only
def test_signals_to_process_group_are_handled_by_main_process_only(images: Images) -> None:
    gate = images.path("gate")
    with Main(images) as main:
        main.send(images.data("a", f"wait={gate}"))
        block_until(lambda: images.attempts("a"), "the image to start", 20)
        os.killpg(main.process.pid, signal.SIGTERM)
        assert main.line() == "signal"
        gate.touch()
        assert main.line() == "jpeg False"
        assert images.attempts("a") == 1
        processes = descendants(main.process.pid)
        assert main.process.stdin is not None
        main.process.stdin.close()
        assert main.line() == "closed"
        assert main.process.wait(20) == 0
        assert main.process.stderr is not None
        assert main.process.stderr.read() == b""
        block_until(lambda: not alive(processes), "all processes to end", 10)


@linux_only
def test_main_process_does_not_import_pillow(images: Images) -> None:
    with Main(images, "imgsvc.images.codec:compress_image") as main:
        main.send(encoded(1))
        assert main.line() == "jpeg False"


@linux_only
async def test_workers_have_lower_priority_than_main_process(images: Images) -> None:
    async with open_pool(1) as pool:
        output = await pool.compress(images.data("a", "nice"), SETTINGS)
        nice, score = map(int, output.data.split())
        assert nice == min(MAX_NICE, os.nice(0) + NICENESS)
        assert score > 0
