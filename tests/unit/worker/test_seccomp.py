"""The filter, run by an interpreter of the few BPF instructions that it uses."""

from __future__ import annotations

import errno
import struct

import pytest
from glowplug_worker.runtime import seccomp, seccomp_files
from glowplug_worker.runtime.nursery.tracer import FORKS
from glowplug_worker.runtime.seccomp_files import own_profile

ALLOW = 0x7FFF0000
DENY = 0x00050000 | errno.EPERM
NO_SUCH_CALL = 0x00050000 | errno.ENOSYS
NO_SUCH_FAMILY = 0x00050000 | errno.EAFNOSUPPORT
KILL = 0x80000000
TRACE = 0x7FF00000
CLONE_NEWUSER = 0x10000000
THREAD_FLAGS = 0x3D0F00  # what glibc passes to clone for a thread


def _verdict(
    machine: str, number: int, *arguments: int, arch: int | None = None, program: bytes = b""
) -> int:
    arch = seccomp.ARCHITECTURES[machine] if arch is None else arch
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    code = list(
        struct.iter_unpack("=HBBI", program or seccomp_files.program(own_profile(), machine))
    )
    accumulator, at = 0, 0
    while True:
        kind, if_true, if_false, value = code[at]
        at += 1
        if kind == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif kind == 0x06:
            return value
        else:
            true = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: accumulator & value != 0,
            }[kind]
            at += if_true if true else if_false


@pytest.fixture(params=sorted(seccomp.ARCHITECTURES))
def machine(request) -> str:
    return request.param


@pytest.mark.parametrize(
    "name",
    [
        "mount", "umount2", "pivot_root", "fsopen", "open_tree", "move_mount", "mount_setattr",
        "ptrace", "process_vm_readv", "keyctl", "add_key", "request_key", "bpf", "perf_event_open",
        "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "setns",
        "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
        "open_by_handle_at", "pidfd_getfd", "process_madvise", "process_mrelease", "vmsplice",
        "memfd_secret", "migrate_pages", "move_pages",
    ],
)  # fmt: skip
def test_what_reaches_too_far_is_refused(machine, name):
    assert _verdict(machine, seccomp_files.numbers(machine)[name]) == DENY


def test_ordinary_calls_pass(machine):
    reading = {"x86_64": 0, "aarch64": 63}[machine]
    assert _verdict(machine, reading) == ALLOW
    assert _verdict(machine, 202 if machine == "x86_64" else 98) == ALLOW  # futex


@pytest.mark.parametrize("name", ["clone", "unshare"])
def test_new_namespaces_are_refused_and_threads_are_not(machine, name):
    number = seccomp_files.numbers(machine)[name]
    assert _verdict(machine, number, CLONE_NEWUSER) == DENY
    assert _verdict(machine, number, CLONE_NEWUSER | 0x11) == DENY
    assert _verdict(machine, number, THREAD_FLAGS) == ALLOW


def test_a_time_namespace_is_refused_and_a_signal_number_is_no_namespace(machine):
    known = seccomp_files.numbers(machine)
    assert _verdict(machine, known["unshare"], 0x80) == DENY
    assert _verdict(machine, known["clone"], 0x80) == ALLOW


def test_clone3_is_unknown_so_that_libc_falls_back(machine):
    assert _verdict(machine, seccomp_files.numbers(machine)["clone3"]) == NO_SUCH_CALL


def test_typing_into_the_terminal_is_refused(machine):
    number = seccomp_files.numbers(machine)["ioctl"]
    assert _verdict(machine, number, 0, 0x5412) == DENY
    assert _verdict(machine, number, 0, 0x5412 | 1 << 32) == DENY  # the kernel drops the high half
    assert _verdict(machine, number, 0, 0x5413) == ALLOW


def test_few_families_of_sockets_pass(machine):
    known = seccomp_files.numbers(machine)
    for family in range(48):
        expected = ALLOW if family in {1, 2, 10, 16} else NO_SUCH_FAMILY
        assert _verdict(machine, known["socket"], family, 1, 0) == expected
        expected = ALLOW if family == 1 else NO_SUCH_FAMILY
        assert _verdict(machine, known["socketpair"], family, 1, 0) == expected
    assert _verdict(machine, known["socket"], 1 << 32 | 38, 5, 0) == NO_SUCH_FAMILY
    assert _verdict(machine, known["socket"], 16, 3, 12) == NO_SUCH_FAMILY
    assert _verdict(machine, known["socket"], 16, 3, 1 << 32) == ALLOW  # the kernel takes 32 bits


def test_protections_of_memory_are_not_switched_off(machine):
    number = seccomp_files.numbers(machine)["personality"]
    for asked in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert _verdict(machine, number, asked) == ALLOW
    for asked in (0x40000, 0x400000, 0x400008, 0x100000):
        assert _verdict(machine, number, asked) == DENY


def test_foreign_calls_do_not_get_through(machine):
    assert _verdict(machine, 0, arch=0x40000003) == KILL
    if machine == "x86_64":
        assert _verdict(machine, 0x40000000 | 0) == NO_SUCH_CALL


def test_what_runtimes_can_not_name_yet_is_refused_by_itself(machine):
    program = seccomp.newer_program(own_profile(), machine, seccomp_files.numbers(machine))
    known = seccomp_files.numbers(machine)
    for name in ("statmount", "listmount", "open_tree_attr", "memfd_secret"):
        assert _verdict(machine, known[name], program=program) == DENY
    for name in ("mount", "clone", "unshare", "setns", "pivot_root", "open_tree"):
        assert _verdict(machine, known[name], program=program) == ALLOW


def test_what_a_tracer_decides_is_that_call_alone():
    """The filter of a template of an ordinary user's."""
    program = seccomp_files.program(own_profile(), "x86_64", FORKS)
    plain = seccomp_files.program(own_profile(), "x86_64")
    clone = seccomp_files.numbers("x86_64")["clone"]
    for flags in FORKS:
        assert _verdict("x86_64", clone, flags, program=program) == TRACE
        assert _verdict("x86_64", clone, flags, program=plain) == DENY
        for other in (flags & ~0x11, flags | 0x100, flags ^ 0x20000, flags ^ 0x10000000):
            told = _verdict("x86_64", clone, other, program=program)
            assert told == _verdict("x86_64", clone, other, program=plain) == DENY
    for number in range(500):
        for value in (0, THREAD_FLAGS, CLONE_NEWUSER, *FORKS):
            if number != clone or value not in FORKS:
                told = _verdict("x86_64", number, value, program=program)
                assert told == _verdict("x86_64", number, value, program=plain)
