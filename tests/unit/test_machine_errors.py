"""One function decides which errors are the machine's, so that they cost no image an attempt."""

from __future__ import annotations

import errno
import os

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from imgsvc.machine_errors import MachineError, is_machine_error

KEY = ConnectionKey(
    "shop.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EIO, errno.EROFS]
)
def test_lack_of_resources_and_failing_disk_are_errors_of_the_machine(number: int) -> None:
    assert is_machine_error(system_error(number))
    assert is_machine_error(aiohttp.ClientConnectorError(KEY, system_error(number)))
    wrapped = RuntimeError("failed")
    wrapped.__cause__ = aiohttp.ClientConnectorDNSError(KEY, system_error(number))
    assert is_machine_error(wrapped)


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ENOENT, errno.EFBIG, errno.ENOSPC])
def test_errors_of_hosts_and_of_single_files_are_not(number: int) -> None:
    assert not is_machine_error(system_error(number))
    assert not is_machine_error(aiohttp.ClientConnectorError(KEY, system_error(number)))
    assert not is_machine_error(RuntimeError("a bug"))


def test_lack_of_memory_is_an_error_of_the_machine() -> None:
    assert is_machine_error(MemoryError())
    assert is_machine_error(MachineError("no memory"))
