"""The system calls that graded code is refused: a seccomp filter as classic BPF.

Namespaces take away the world outside; this filter takes away what would still reach the kernel or
escape the limits. Without `fork` the address-space limit of the one process is the memory limit of
the whole program, and nothing outlives it. Threads stay allowed. Refused calls fail with EPERM.
"""

from __future__ import annotations

import errno
import platform
import struct
import sys

_RET_ALLOW = 0x7FFF0000
_RET_KILL = 0x80000000
_RET_ERRNO = 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _ARG0 = 0, 4, 16
_CLONE_THREAD = 0x00010000
_X32_BIT = 0x40000000

# name: (x86_64, aarch64); None where the machine has no such call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # processes and programs
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    # other processes, the zygote among them
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    # sockets of any family: some (vsock) are not confined by a network namespace
    "socket": (41, 198),
    # memory that no limit of a process counts, and state that outlives a program
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # wide kernel surface that no program under test needs
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "personality": (135, 92),
}
_CLONE, _CLONE3, _PRLIMIT = (56, 220), (435, 435), (302, 261)
# Signals: a program may send them to itself alone, not to what watches over it or tests it.
_SIGNALS = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}
OWN_PID = struct.pack("=I", 0x7EADBEEF)
"""Stands in the filter for the process id of the process that installs it."""
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def supported() -> bool:
    """True where the numbers of this machine's system calls are known."""
    return platform.machine() in _MACHINES


def build_filter(machine: str | None = None) -> bytes:
    """The filter as an array of `struct sock_filter`; raises ValueError for unknown machines."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        raise ValueError(f"no seccomp filter for {machine!r}; known: {', '.join(_MACHINES)}")
    column, arch = _MACHINES[machine]
    program = [
        _op(_LOAD, _ARCH),
        *_unless_equal(arch, skip=1, otherwise=_RET_KILL),
        _op(_LOAD, _NR),
        _op(_JUMP_AT_LEAST, _X32_BIT, 0, 1),
        _op(_RETURN, _RET_ERRNO | errno.ENOSYS),
        # glibc falls back from clone3, whose flags a filter cannot see, to clone
        *_refuse(_CLONE3[column], errno.ENOSYS),
        *_refuse_by_argument(_CLONE[column], _op(_JUMP_ANY_BIT, _CLONE_THREAD, 0, 1)),
        *_refuse_by_argument(_PRLIMIT[column], _op(_JUMP_EQUAL, 0, 0, 1)),
    ]
    for signals in _SIGNALS.values():
        own = _op(_JUMP_EQUAL, int.from_bytes(OWN_PID, sys.byteorder), 0, 1)
        program += _refuse_by_argument(signals[column], own)
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            program += _refuse(number, errno.EPERM)
    program.append(_op(_RETURN, _RET_ALLOW))
    return b"".join(program)


def _op(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def _unless_equal(value: int, skip: int, otherwise: int) -> list[bytes]:
    return [_op(_JUMP_EQUAL, value, skip, 0), _op(_RETURN, otherwise)]


def _refuse(number: int, error: int) -> list[bytes]:
    return [_op(_JUMP_EQUAL, number, 0, 1), _op(_RETURN, _RET_ERRNO | error)]


def _refuse_by_argument(number: int, allow_if: bytes) -> list[bytes]:
    """Refuse call `number` unless the test of its first argument's low word holds."""
    return [
        _op(_JUMP_EQUAL, number, 0, 4),
        _op(_LOAD, _ARG0),
        allow_if,
        _op(_RETURN, _RET_ALLOW),
        _op(_RETURN, _RET_ERRNO | errno.EPERM),
    ]
