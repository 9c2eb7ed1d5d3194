"""The pool, with real processes that crash, hang, eat memory, and are killed."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from imgsvc.config import CompressConfig
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressedImage, CompressionSettings
from imgsvc.workers.pool import PoolClosedError, WorkerPool
from tests.origin import ROOT
from tests.sample_images import encoded
from tests.waiting import block_until, wait_until

SETTINGS = CompressionSettings()
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@asynccontextmanager
async def a_pool(
    workers: int = 2, *, module: str = "tests.faulty_worker", **config: float
) -> AsyncIterator[WorkerPool]:
    settings = CompressConfig.model_validate({"workers": workers, **config})
    pool = WorkerPool(settings, function=f"{module}:compress")
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close(0)


class Images:
    """Images with a name each, that count how often they were tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / name

    def data(self, name: str, acts: str = "") -> bytes:
        return f"{self.path(name)} {acts}".encode()

    def tries(self, name: str) -> int:
        path = self.path(name)
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path)


async def code_of(work: asyncio.Future[CompressedImage]) -> ImageErrorCode:
    with pytest.raises(ImageError) as caught:
        await work
    return caught.value.code


def parents() -> dict[int, int]:
    """Every process there is, and its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry.name)] = int(fields[1])
    return found


def descendants(pid: int) -> set[int]:
    """All processes below this one."""
    above = parents()
    found = {pid}
    while more := {child for child, parent in above.items() if parent in found} - found:
        found |= more
    return found - {pid}


def fork_server() -> int:
    """Our child that makes the workers."""
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


# --- what an image may do, and what becomes of it -----------------------------------------------


async def test_images_are_compressed_side_by_side(images: Images) -> None:
    async with a_pool(2) as pool:
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
            assert [answer.data for answer in await asyncio.gather(*both)] == [b"done"] * 2


async def test_what_libraries_print_is_not_in_the_log(
    images: Images, capfd: pytest.CaptureFixture[str]
) -> None:
    async with a_pool(1) as pool:
        await pool.compress(images.data("a", "print=scrawl"), SETTINGS)
    assert "scrawl" not in capfd.readouterr().err


async def test_an_images_own_error_comes_back(images: Images) -> None:
    async with a_pool(1) as pool:
        with pytest.raises(ImageError, match="corrupt_image: it is cut off"):
            await pool.compress(images.data("a", "refuse"), SETTINGS)


async def test_an_image_that_failed_stays_in_nobodys_memory(images: Images) -> None:
    """Nor may it wait for the garbage collector: it may be of many megabytes."""
    data = images.data("a", "refuse")
    held = sys.getrefcount(data)
    gc.disable()
    try:
        async with a_pool(1) as pool:
            with suppress(ImageError):
                await pool.compress(data, SETTINGS)
            await wait_until(lambda: sys.getrefcount(data) == held, "the image to be let go of")
    finally:
        gc.enable()


async def test_a_bug_is_logged_and_told(images: Images, caplog: pytest.LogCaptureFixture) -> None:
    async with a_pool(1) as pool:
        with pytest.raises(ImageError, match="LookupError") as caught:
            await pool.compress(images.data("a", "bug"), SETTINGS)
        assert caught.value.code == ImageErrorCode.INTERNAL
        assert "nobody thought of this" in caplog.records[-1].__dict__["traceback"]


async def test_an_answer_that_cannot_be_sent_costs_no_other_image(images: Images) -> None:
    async with a_pool(1) as pool:
        bad = asyncio.create_task(pool.compress(images.data("bad", "secret"), SETTINGS))
        good = [pool.compress(images.data(f"good{i}"), SETTINGS) for i in range(6)]
        assert len(await asyncio.gather(*good)) == 6
        assert await code_of(bad) == ImageErrorCode.INTERNAL


@pytest.mark.parametrize("acts", ["exit", "signal=SIGSEGV", "signal=SIGABRT", "signal=SIGKILL"])
async def test_a_picture_that_kills_three_workers_is_convicted_and_no_other(
    images: Images, acts: str
) -> None:
    async with a_pool(1) as pool:
        first = asyncio.create_task(pool.compress(images.data("first", "sleep=0.1"), SETTINGS))
        await asyncio.sleep(0)  # the rest waits behind it and travels together
        good = [
            asyncio.create_task(pool.compress(images.data(f"good{i}"), SETTINGS)) for i in range(3)
        ]
        await asyncio.sleep(0)
        bad = asyncio.create_task(pool.compress(images.data("bad", acts), SETTINGS))
        good += [
            asyncio.create_task(pool.compress(images.data(f"good{i}"), SETTINGS))
            for i in range(3, 12)
        ]
        await asyncio.gather(first, *good)
        assert await code_of(bad) == ImageErrorCode.COMPRESS_CRASHED
        assert images.tries("bad") == 3
        # Those that came along with it once were lost with it once; then it was alone.
        assert max(images.tries(f"good{i}") for i in range(12)) == 2
        assert pool.deaths == 3
        assert (await pool.compress(images.data("after"), SETTINGS)).data == b"done"


async def test_a_worker_may_die_in_the_middle_of_its_answer(images: Images) -> None:
    flag = images.path("flag")
    async with a_pool(1) as pool, asyncio.timeout(20):
        assert (
            await pool.compress(images.data("a", f"once={flag} half"), SETTINGS)
        ).data == b"done"
        assert images.tries("a") == 2


async def test_several_crashing_pictures_are_all_convicted(images: Images) -> None:
    async with a_pool(2) as pool:
        work = [
            asyncio.create_task(
                pool.compress(images.data(f"i{i}", "exit" if i % 5 == 0 else ""), SETTINGS)
            )
            for i in range(20)
        ]
        done = await asyncio.gather(*work, return_exceptions=True)
        failed = [i for i, answer in enumerate(done) if isinstance(answer, ImageError)]
        assert failed == [0, 5, 10, 15]
        assert all(images.tries(f"i{i}") == 3 for i in failed)


@pytest.mark.parametrize("acts", ["hang", "hold"])
async def test_the_deadline_ends_a_worker_that_hangs(images: Images, acts: str) -> None:
    async with a_pool(1, seconds=0.5) as pool:
        work = [
            asyncio.create_task(
                pool.compress(images.data(f"i{i}", acts if i == 3 else "sleep=0.05"), SETTINGS)
            )
            for i in range(8)
        ]
        assert await code_of(work.pop(3)) == ImageErrorCode.COMPRESS_TIMEOUT
        assert len(await asyncio.gather(*work)) == 7
        assert images.tries("i3") == 1
        assert pool.deaths == 1


async def test_the_deadline_is_an_images_not_a_messages(images: Images) -> None:
    async with a_pool(1, seconds=0.6) as pool:
        work = [pool.compress(images.data(f"i{i}", "sleep=0.15"), SETTINGS) for i in range(12)]
        assert len(await asyncio.gather(*work)) == 12
        assert pool.deaths == 0


@linux_only
async def test_memory_beyond_the_limit_fails_one_image_and_its_worker_goes_on(
    images: Images,
) -> None:
    async with a_pool(1, worker_memory_bytes=300 * 2**20) as pool:
        work = [
            asyncio.create_task(pool.compress(images.data("small", f"eat={100 << 20}"), SETTINGS)),
            asyncio.create_task(pool.compress(images.data("large", f"eat={400 << 20}"), SETTINGS)),
            asyncio.create_task(pool.compress(images.data("again", f"eat={100 << 20}"), SETTINGS)),
        ]
        assert await code_of(work.pop(1)) == ImageErrorCode.OUT_OF_MEMORY
        await asyncio.gather(*work)
        assert images.tries("large") == 1
        assert pool.deaths == 0


async def test_what_waits_behind_a_long_image_goes_to_another_worker(images: Images) -> None:
    gate = images.path("gate")
    async with a_pool(2) as pool:
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
        assert images.tries("i0") == 1


async def test_an_image_that_is_cancelled_while_it_waits_is_never_begun(images: Images) -> None:
    gate = images.path("gate")
    async with a_pool(1) as pool:
        work = [
            asyncio.create_task(pool.compress(images.data(f"i{i}", f"wait={gate}"), SETTINGS))
            for i in range(4)
        ]
        await wait_until(lambda: images.tries("i0"), "the first to begin")
        assert pool.waiting == 2
        assert pool.busy == 1
        work[3].cancel()
        with pytest.raises(asyncio.CancelledError):
            await work[3]
        assert pool.waiting == 1
        work[0].cancel()  # begun: it is finished, and thrown away
        gate.touch()
        await asyncio.gather(*work[1:3])
        assert images.tries("i3") == 0
        assert pool.deaths == 0


# --- workers that die of something else ----------------------------------------------------------


@linux_only
async def test_workers_killed_at_random_cost_no_image(images: Images) -> None:
    chance = random.Random(6)
    async with a_pool(2) as pool:
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
async def test_the_fork_server_may_be_killed(images: Images) -> None:
    padding = "x" * 200_000  # more than a pipe holds
    async with a_pool(2) as pool:
        work = [
            asyncio.create_task(
                pool.compress(images.data(f"i{i}", f"sleep=0.05 {padding}"), SETTINGS)
            )
            for i in range(30)
        ]
        await wait_until(lambda: any(task.done() for task in work), "the first to be done")
        server = fork_server()
        workers = descendants(server)
        os.kill(server, signal.SIGKILL)
        assert len(await asyncio.gather(*work)) == 30
        assert len(workers) == 2
        await wait_until(lambda: not alive(workers), "the old workers to end")
        assert pool.deaths == 2


async def test_a_pool_whose_workers_do_not_start_is_not_well_until_they_do(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(images.folder))
    module = images.path("absent_for_now.py")
    async with a_pool(2, module="absent_for_now") as pool:
        assert not pool.healthy
        work = asyncio.create_task(pool.compress(images.data("a"), SETTINGS))
        module.write_text("from tests.faulty_worker import compress")
        assert (await work).data == b"done"
        assert pool.healthy


async def test_a_slot_is_manned_again_though_there_was_no_file_left_to_open(
    images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with a_pool(1) as pool:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            pool._up[0].kill()
            await wait_until(lambda: "a worker did not start" in caplog.text, "a try in vain")
            assert not pool.healthy
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await pool.compress(images.data("a"), SETTINGS)).data == b"done"
        assert pool.healthy


async def test_starting_holds_up_nothing_else(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(images.folder))
    begun, gate = images.path("begun"), images.path("gate")
    images.path("slow_start.py").write_text(
        "from tests.faulty_worker import compress, wait_for\n"
        f"def warm_up():\n    open({str(begun)!r}, 'w')\n    wait_for({str(gate)!r})\n"
    )
    pool = WorkerPool(CompressConfig(workers=1), function="slow_start:compress")
    start = asyncio.create_task(pool.start())
    await wait_until(begun.exists, "the worker to warm up")
    work = asyncio.create_task(pool.compress(images.data("a"), SETTINGS))
    await asyncio.sleep(0)
    assert not start.done()
    assert images.tries("a") == 0
    gate.touch()
    await start
    await work
    await pool.close(0)


async def test_a_pool_can_be_closed_while_it_starts(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(images.folder))
    begun = images.path("begun")
    images.path("never_starts.py").write_text(
        "from tests.faulty_worker import compress, wait_for\n"
        f"def warm_up():\n    open({str(begun)!r}, 'w')\n    wait_for({str(begun)!r} + '.never')\n"
    )
    pool = WorkerPool(CompressConfig(workers=1), function="never_starts:compress")
    start = asyncio.create_task(pool.start())
    await wait_until(begun.exists, "the worker to warm up")
    async with asyncio.timeout(20):
        await pool.close(10)
        await start


# --- the end -------------------------------------------------------------------------------------


async def test_closing_waits_for_what_is_at_work_and_drops_what_waits(images: Images) -> None:
    gate = images.path("gate")
    async with a_pool(1) as pool:
        work = [
            asyncio.create_task(pool.compress(images.data(f"i{i}", f"wait={gate}"), SETTINGS))
            for i in range(3)
        ]
        await wait_until(lambda: images.tries("i0"), "the first to begin")
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
async def test_closing_ends_what_takes_longer_than_its_grace(images: Images) -> None:
    async with a_pool(1) as pool:
        pid = int((await pool.compress(images.data("pid", "pid"), SETTINGS)).data)
        work = asyncio.create_task(pool.compress(images.data("a", "hold"), SETTINGS))
        await wait_until(lambda: images.tries("a"), "it to begin")
        await pool.close(0.1)
        with pytest.raises(PoolClosedError):
            await work
        await wait_until(lambda: pid not in descendants(os.getpid()), "the worker to end")


MAIN = """
import asyncio, signal, sys
from imgsvc.config import CompressConfig
from imgsvc.workers.pool import Pool
from imgsvc.models import Settings

async def main():
    function = {function!r}
    pool = Pool(CompressConfig(workers=2), function=function)
    await pool.start()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: print("signal", flush=True))
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        data = bytes.fromhex(line.decode())
        answer = await pool.compress(data, Settings())
        print(answer.info.output_format, "PIL" in sys.modules, flush=True)
    await pool.close(5)
    print("closed", flush=True)

if __name__ == "__main__":
    asyncio.run(main())
"""


class Main:
    """A main process of its own, the leader of its group, with a pool."""

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

    def __enter__(self) -> Main:
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
@pytest.mark.parametrize("acts", ["", "hang", "hold"])
def test_nothing_outlives_a_main_process_that_is_killed(images: Images, acts: str) -> None:
    with Main(images) as main:
        main.send(images.data("a", acts))
        block_until(lambda: images.tries("a"), "the image to begin", 20)
        block_until(lambda: len(descendants(main.process.pid)) == 4, "all to be there", 20)
        below = descendants(main.process.pid)
        main.process.kill()
        block_until(lambda: not alive(below), "all to end", 10)


@linux_only
def test_signals_to_the_whole_group_are_the_main_processs_to_decide(images: Images) -> None:
    gate = images.path("gate")
    with Main(images) as main:
        main.send(images.data("a", f"wait={gate}"))
        block_until(lambda: images.tries("a"), "the image to begin", 20)
        os.killpg(main.process.pid, signal.SIGTERM)
        assert main.line() == "signal"
        gate.touch()
        assert main.line() == "jpeg False"
        assert images.tries("a") == 1
        below = descendants(main.process.pid)
        assert main.process.stdin is not None
        main.process.stdin.close()
        assert main.line() == "closed"
        assert main.process.wait(20) == 0
        assert main.process.stderr is not None
        assert main.process.stderr.read() == b""
        block_until(lambda: not alive(below), "all to end", 10)


@linux_only
def test_pillow_stays_out_of_the_main_process(images: Images) -> None:
    with Main(images, "imgsvc.images.codec:compress_image") as main:
        main.send(encoded(1))
        assert main.line() == "jpeg False"


@linux_only
async def test_workers_yield_to_the_main_process(images: Images) -> None:
    async with a_pool(1) as pool:
        answer = await pool.compress(images.data("a", "nice"), SETTINGS)
        nice, score = map(int, answer.data.split())
        assert nice > os.nice(0)
        assert score > 0
