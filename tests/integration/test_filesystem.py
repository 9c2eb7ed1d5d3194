"""Tests of `FilesystemStore` on real file systems, beside those of every store."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.errors import ImageError
from imgsvc.machine_errors import MachineError
from imgsvc.storage.base import StorageFullError
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.filesystem import FilesystemStore, has_outputs, output_path
from tests.no_descriptors import no_descriptors
from tests.origin import ROOT

NAME = "0123456789abcdef0123456789abcdef01.jpg"
OTHER = "fedcba9876543210fedcba9876543210fe.jpg"
"""A name in another folder than NAME."""


def new_name(extension: str = "jpg") -> str:
    return f"{secrets.token_hex(17)}.{extension}"


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[FilesystemStore]:
    files = FilesystemStore(tmp_path, DiskSpace(tmp_path, 0))
    yield files
    await files.close()


def test_output_path_uses_folder_of_first_two_digits(tmp_path: Path) -> None:
    for name in (NAME, "0123456789abcdef0123456789abcdef.jpg"):  # the second from version 1.0
        assert output_path(tmp_path, name) == tmp_path / "outputs" / "01" / name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "lock",
        "../../etc/passwd",
        NAME[:-4],
        NAME + "\n",
        NAME + ".tmp",
        NAME[1:],
        "x" + NAME[1:],
        NAME.upper(),
        NAME.replace(".jpg", ".exe"),
        NAME.replace(".jpg", "/jpg"),
        "../" + NAME,
    ],
)
def test_output_path_refuses_invalid_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not an output name"):
        output_path(tmp_path, name)


@given(st.text())
def test_output_path_is_inside_outputs_for_every_accepted_name(name: str) -> None:
    try:
        path = output_path(Path("/data"), name)
    except ValueError:
        return
    assert path.is_relative_to("/data/outputs")
    assert ".." not in path.parts


async def test_put_leaves_only_the_output_with_owner_permissions(
    files: FilesystemStore, tmp_path: Path
) -> None:
    assert not has_outputs(tmp_path)
    await files.put(NAME, b"x")
    assert has_outputs(tmp_path)
    assert names_below(tmp_path) == {f"outputs/01/{NAME}"}
    assert files.path(NAME).stat().st_mode & 0o777 == 0o600
    assert files.path(NAME).parent.stat().st_mode & 0o777 == 0o700


async def test_put_leaves_no_file_when_cancelled(files: FilesystemStore, tmp_path: Path) -> None:
    kept = [new_name() for _ in range(40)]
    dropped = [new_name() for _ in range(40)]
    puts = {name: asyncio.create_task(files.put(name, bytes(50_000))) for name in kept + dropped}
    for i, name in enumerate(dropped):
        if i % 10 == 0:
            await asyncio.sleep(0)
        puts[name].cancel()
    await asyncio.gather(*puts.values(), return_exceptions=True)
    await files.close()
    assert names_below(tmp_path) == {f"outputs/{name[:2]}/{name}" for name in kept}


async def test_put_leaves_no_file_when_cancelled_after_move(
    files: FilesystemStore, tmp_path: Path
) -> None:
    put = asyncio.create_task(files.put(NAME, bytes(10)))
    while not files.path(NAME).exists():  # noqa: ASYNC110 - a thread moves it
        await asyncio.sleep(0)
    put.cancel()
    await asyncio.gather(put, return_exceptions=True)
    assert names_below(tmp_path) == (set() if put.cancelled() else {f"outputs/01/{NAME}"})


async def test_put_leaves_no_file_when_cancelled_after_sync(
    files: FilesystemStore, tmp_path: Path
) -> None:
    """The call is cancelled after the file is synced, but before its caller continues."""
    put = asyncio.create_task(files.put(NAME, bytes(10)))
    await asyncio.sleep(0)
    (waiting,) = files._waiting
    waiting.done.add_done_callback(lambda _: put.cancel())
    await asyncio.gather(put, return_exceptions=True)
    assert put.cancelled()
    assert names_below(tmp_path) == set()


async def test_put_raises_cancelled_error_when_its_file_cannot_be_removed(
    files: FilesystemStore,
) -> None:
    files.path(NAME).mkdir(parents=True)
    put = asyncio.create_task(files.put(NAME, bytes(10)))
    await asyncio.sleep(0)
    put.cancel()
    await asyncio.gather(put, return_exceptions=True)
    assert put.cancelled()


async def test_put_stores_other_files_when_one_cannot_be_closed(files: FilesystemStore) -> None:
    """A network file system may report an exceeded quota only when the file is closed."""
    bad = asyncio.create_task(files.put(NAME, b"x"))
    good = asyncio.create_task(files.put(OTHER, b"y"))
    await asyncio.sleep(0)
    put = files._waiting[0]
    put.fd, put.error = 2**30, OSError(errno.EDQUOT, "quota exceeded")
    async with asyncio.timeout(20):
        with pytest.raises(StorageFullError):
            await bad
        await good
    assert files.path(OTHER).read_bytes() == b"y"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the paths of open files from /proc")
async def test_put_syncs_its_file_and_the_folders_that_have_changed(
    files: FilesystemStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink().relative_to(tmp_path)))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    await asyncio.gather(files.put(NAME, b"x"), files.put(OTHER, b"y"))
    assert [Path(path).parent.name for path in synced[:2]] == ["tmp", "tmp"]
    assert sorted(synced[2:]) == ["outputs", "outputs/01", "outputs/fe"]
    synced.clear()
    await files.put(NAME.replace("ef01", "ef02"), b"z")
    assert synced[1:] == ["outputs/01"]


async def test_put_releases_data_when_it_cannot_be_stored(files: FilesystemStore) -> None:
    """The data may have many megabytes, so it must not stay until the garbage collector runs."""
    name, data = new_name(), secrets.token_bytes(100)
    files.path(name).parent.write_bytes(b"a file where a folder should be")
    references = sys.getrefcount(data)
    gc.disable()
    try:
        await asyncio.gather(files.put(name, data), return_exceptions=True)
        await files.close()
        await asyncio.sleep(0)  # The event loop itself still holds the last callback.
        assert sys.getrefcount(data) == references
    finally:
        gc.enable()


async def test_delete_removes_other_files_when_one_cannot_be_deleted(
    files: FilesystemStore,
) -> None:
    files.path(NAME).mkdir(parents=True)
    await files.put(OTHER, b"x")
    with pytest.raises(OSError, match=NAME):
        await files.delete([NAME, OTHER])
    assert not files.path(OTHER).exists()


async def test_sweep_removes_only_temporary_files(files: FilesystemStore, tmp_path: Path) -> None:
    done = new_name()
    await files.put(done, b"x")
    others = [
        tmp_path / "lock",
        tmp_path / "note.tmp",
        tmp_path / "outputs" / "readme.txt",
        tmp_path / "outputs" / "tmp" / "other.tmp",
        tmp_path / "outputs" / "tmp" / NAME,
        files.path(done).with_suffix(".note"),
        files.path(done).with_suffix(".tmp"),
    ]
    for path in others:
        path.write_text("another file")
    leftovers = [files._temporary(new_name()), files._temporary(OTHER)]
    for path in leftovers:
        path.write_bytes(b"half")
    before = names_below(tmp_path)
    await files.sweep()
    removed = {str(path.relative_to(tmp_path)) for path in leftovers}
    assert names_below(tmp_path) == before - removed


WRITER = """
import asyncio, secrets, sys
from pathlib import Path
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.filesystem import FilesystemStore

async def main():
    folder = Path(sys.argv[1])
    files = FilesystemStore(folder, DiskSpace(folder, 0))
    async def put():
        name = secrets.token_hex(16) + ".png"
        await files.put(name, bytes.fromhex(name[:32]) * 4000)
        print(name, flush=True)
    while True:
        await asyncio.gather(*(put() for _ in range(32)))

asyncio.run(main())
"""


def write_until_killed(folder: Path, lines: int) -> list[str]:
    """Store files in a process, and kill it after `lines` names. Return all names it has reported."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with writer:
        assert writer.stdout is not None
        reported = [writer.stdout.readline() for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        return reported + writer.stdout.readlines()


async def test_kill_leaves_only_complete_outputs_and_loses_none_that_was_reported(
    tmp_path: Path,
) -> None:
    for lines in (1, 40, 75, 200):
        reported = write_until_killed(tmp_path, lines)
        files = FilesystemStore(tmp_path, DiskSpace(tmp_path, 0))
        await files.sweep()
        await files.close()
        found = {Path(name).name for name in names_below(tmp_path)}
        assert {name.strip() for name in reported if name.endswith("\n")} <= found
        for name in found:
            assert output_path(tmp_path, name).read_bytes() == bytes.fromhex(name[:32]) * 4000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.external
async def test_put_raises_storage_full_error_when_disk_is_full(small_disk: Path) -> None:
    full = FilesystemStore(small_disk, DiskSpace(small_disk, 0))
    with pytest.raises(StorageFullError, match=os.strerror(errno.ENOSPC)):
        await full.put(new_name(), bytes(2 * 2**20))
    assert names_below(small_disk) == set()
    await full.put(NAME, bytes(2**16))
    await full.close()


@pytest.mark.external
async def test_put_that_fails_keeps_an_older_output_of_the_name(small_disk: Path) -> None:
    """The database may be a backup that is older than the output."""
    files = FilesystemStore(small_disk, DiskSpace(small_disk, 0))
    await files.put(NAME, b"stored")
    with pytest.raises(StorageFullError):
        await files.put(NAME, bytes(2**21))
    assert await files.read(NAME, 0, 10) == b"stored"
    await files.close()


async def test_put_raises_image_error_when_file_exceeds_size_limit(
    files: FilesystemStore, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(ImageError, match=os.strerror(errno.EFBIG)):
            await files.put(NAME, bytes(2_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert names_below(tmp_path) == set()


async def test_put_waits_while_there_are_no_descriptors(tmp_path: Path) -> None:
    files = FilesystemStore(tmp_path, DiskSpace(tmp_path, 0), retry_delays=[0.01] * 10_000)
    names = [new_name() for _ in range(100)]
    with no_descriptors():
        puts = [asyncio.create_task(files.put(name, b"x")) for name in names]
        _, waiting = await asyncio.wait(puts, timeout=0.02)
    assert len(waiting) == len(puts)
    await asyncio.gather(*puts)
    assert all([await files.read(name, 0, 2) == b"x" for name in names])
    assert {Path(name).name for name in names_below(tmp_path)} == set(names)
    await files.close()


async def test_read_waits_while_there_are_no_descriptors(tmp_path: Path) -> None:
    files = FilesystemStore(tmp_path, DiskSpace(tmp_path, 0), retry_delays=[0.01] * 10_000)
    await files.put(NAME, b"x")
    with no_descriptors():
        read = asyncio.create_task(files.read(NAME, 0, 2))
        _, waiting = await asyncio.wait([read], timeout=0.02)
    assert waiting
    assert await read == b"x"
    await files.close()


async def test_put_raises_machine_error_when_descriptors_stay_away(tmp_path: Path) -> None:
    files = FilesystemStore(tmp_path, DiskSpace(tmp_path, 0), retry_delays=[0.01])
    with no_descriptors(), pytest.raises(MachineError, match=os.strerror(errno.EMFILE)):
        await files.put(NAME, b"x")
    assert names_below(tmp_path) == set()
    await files.close()


async def test_put_writes_again_after_a_failed_sync(
    files: FilesystemStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed sync, another sync of the same file may succeed although data is lost."""
    synced: list[int] = []
    sync = os.fsync

    def fail_once(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        if len(synced) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(fd)

    monkeypatch.setattr(os, "fsync", fail_once)
    await files.put(NAME, b"x")
    assert output_path(tmp_path, NAME).stat().st_ino == synced[1]
    assert await files.read(NAME, 0, 2) == b"x"
