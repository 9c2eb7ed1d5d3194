"""The seccomp filter of a worker: system calls that image libraries do not need fail with EPERM.

Denied are sockets, programs, processes, signals to other processes, opening or changing files for
writing, and the administration of the system. The filter is a program for the kernel's classic BPF
machine (`man 2 seccomp`, `linux/filter.h`).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator, Sequence

_Instruction = tuple[int, int, int, int]
"""An instruction: its operation, the jumps if true and if false, and its operand."""

_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _EPERM, _ENOSYS, _ALLOW = 0x80000000, 0x00050001, 0x00050026, 0x7FFF0000
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16  # of struct seccomp_data
_SET_MODE_FILTER, _ALL_THREADS, _ACTION_AVAILABLE = 1, 1, 2

_MACHINES = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}
"""For each machine, its AUDIT_ARCH number and the number of the system call seccomp."""

_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206),
    "sendmsg": (46, 211), "sendmmsg": (307, 269), "execve": (59, 221), "execveat": (322, 281),
    "fork": (57, None), "vfork": (58, None), "kill": (62, 129), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "personality": (135, 92),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "memfd_create": (319, 279),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180), "mq_unlink": (241, 181), "creat": (85, None),
    "truncate": (76, 45), "mkdir": (83, None), "mkdirat": (258, 34), "mknod": (133, None),
    "mknodat": (259, 33), "unlink": (87, None), "unlinkat": (263, 35), "rmdir": (84, None),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "chmod": (90, None),
    "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88),
}  # fmt: skip
"""The numbers of system calls that are always denied, on x86-64 and aarch64."""

_NEW_CALLS = 424
"""From this number on, system calls have the same number on all machines."""
_ALLOWED_NEW_CALLS = {
    "close_range": 436, "faccessat2": 439, "epoll_pwait2": 441, "futex_waitv": 449,
    "cachestat": 451, "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455,
    "futex_requeue": 456, "mseal": 462,
}  # fmt: skip
"""The new system calls that a worker may use. The others fail with ENOSYS, as in an older kernel.

Among the others are pidfd_open and io_uring_setup, and clone3, for which libraries then use clone."""

_CLONE_THREAD = 0x10000
_X32_CALLS = 0x40000000
"""On x86-64, calls from this number on are those of the x32 interface."""


def available() -> bool:
    """Return whether the kernel offers seccomp filters on this machine."""
    if platform.machine() not in _MACHINES:
        return False
    action = ctypes.c_uint32(_EPERM & 0xFFFF0000)
    return _seccomp(_ACTION_AVAILABLE, 0, ctypes.addressof(action))


def install() -> bool:
    """Install the filter in all threads of this process. Return False if that is impossible.

    The process must have set `no_new_privs`.
    """
    if platform.machine() not in _MACHINES:
        return False
    instructions = list(_program(platform.machine(), os.getpid()))
    code = ctypes.create_string_buffer(
        b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    )
    program = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code))
    )
    return _seccomp(_SET_MODE_FILTER, _ALL_THREADS, ctypes.addressof(program))


def _seccomp(operation: int, flags: int, argument: int) -> bool:
    _, number = _MACHINES[platform.machine()]
    result: int = ctypes.CDLL(None).syscall(
        ctypes.c_long(number),
        ctypes.c_uint(operation),
        ctypes.c_uint(flags),
        ctypes.c_void_p(argument),
    )
    return result == 0


def _program(machine: str, pid: int) -> Iterator[_Instruction]:
    architecture, _ = _MACHINES[machine]
    column = list(_MACHINES).index(machine)
    yield _LOAD, 0, 0, _ARCHITECTURE_OFFSET
    yield _IF_EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER_OFFSET
    if machine == "x86_64":
        yield from _if(_IF_AT_LEAST, _X32_CALLS, _EPERM)
    for number in sorted(_ALLOWED_NEW_CALLS.values()):
        yield from _if(_IF_EQUAL, number, _ALLOW)
    yield from _if(_IF_AT_LEAST, _NEW_CALLS, _ENOSYS)
    for number in sorted(n for numbers in _DENIED.values() if (n := numbers[column]) is not None):
        yield from _if(_IF_EQUAL, number, _EPERM)
    yield from _argument_rules(machine, pid)
    yield _RETURN, 0, 0, _ALLOW


def _argument_rules(machine: str, pid: int) -> Iterator[_Instruction]:
    """Yield the rules for calls that are allowed with some arguments only."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    owner_or_signal = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals to other processes
    terminal_input = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
    x86 = machine == "x86_64"
    if x86:
        yield from _if_argument(
            2, 1, _IF_ANY_BIT, [writing], match=_EPERM, otherwise=_ALLOW
        )  # open
    for number, argument, test, operands, match, otherwise in (
        (257 if x86 else 56, 2, _IF_ANY_BIT, [writing], _EPERM, _ALLOW),  # openat
        (56 if x86 else 220, 0, _IF_ANY_BIT, [_CLONE_THREAD], _ALLOW, _EPERM),  # clone
        (234 if x86 else 131, 0, _IF_EQUAL, [pid], _ALLOW, _EPERM),  # tgkill, as by abort()
        (302 if x86 else 261, 0, _IF_EQUAL, [0], _ALLOW, _EPERM),  # prlimit64, as by getrlimit()
        (72 if x86 else 25, 1, _IF_EQUAL, owner_or_signal, _EPERM, _ALLOW),  # fcntl
        (16 if x86 else 29, 1, _IF_EQUAL, terminal_input, _EPERM, _ALLOW),  # ioctl
    ):
        yield from _if_argument(number, argument, test, operands, match=match, otherwise=otherwise)


def _if(test: int, operand: int, action: int) -> Iterator[_Instruction]:
    """Yield instructions: if the test of the call's number is true, the action."""
    yield test, 0, 1, operand
    yield _RETURN, 0, 0, action


def _if_argument(
    number: int, argument: int, test: int, operands: Sequence[int], *, match: int, otherwise: int
) -> Iterator[_Instruction]:
    """Yield instructions for one system call: test its argument, and act accordingly.

    The test uses the argument's lower 32 bits.
    """
    yield _IF_EQUAL, 0, 2 * len(operands) + 2, number
    yield _LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * argument
    for operand in operands:
        yield from _if(test, operand, match)
    yield _RETURN, 0, 0, otherwise
