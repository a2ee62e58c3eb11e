"""System calls that reach more of the kernel than code in a container needs."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct

from .kit import AT_FDCWD, LIBC, X86, Family, Held, called, in_child, reached, syscall

FAMILY = Family("kernel")

# title, numbers of the design, (x86-64, aarch64), arguments, errors that only who may ask gets
_ASKED = (
    ("io_uring_setup", (27,), (425, 425), (1, ctypes.create_string_buffer(120)), ()),
    ("io_uring_enter", (27,), (426, 426), (-1, 0, 0, 0, None, 0), (errno.EBADF,)),
    ("io_uring_register", (27,), (427, 427), (-1, 0, None, 0), (errno.EBADF, errno.EINVAL)),
    ("userfaultfd", (26,), (323, 282), (0,), ()),
    ("keyctl: the session keyring", (22,), (250, 219), (0, -2, 1), ()),
    ("keyctl: join a new session", (22,), (250, 219), (1, None), ()),
    ("keyctl: describe the user's keyring", (22,), (250, 219), (6, -4, None, 0), ()),
    ("add_key", (23,), (248, 217), (b"user", b"glowplug-test", b"x", 1, -2), ()),
    (
        "request_key",
        (22,),
        (249, 218),
        (b"user", b"glowplug-no-such-key", None, 0),
        (errno.ENOKEY,),
    ),
    (
        "perf_event_open",
        (25,),
        (298, 241),
        (ctypes.create_string_buffer(struct.pack("=IIQ", 1, 112, 0) + bytes(112)), 0, -1, -1, 0),
        (),
    ),
    ("init_module", (30,), (175, 105), (None, 0, b""), (errno.ENOEXEC, errno.EFAULT)),
    ("finit_module", (30,), (313, 273), (-1, b"", 0), (errno.EBADF,)),
    ("delete_module", (30,), (176, 106), (b"glowplug_no_such_module", 0), (errno.ENOENT,)),
    ("kexec_load", (30,), (246, 104), (0, 0, None, 0xFFFF0000), (errno.EINVAL,)),
    ("kexec_file_load", (30,), (320, 294), (-1, -1, 0, None, 0), (errno.EBADF,)),
    ("reboot", (34,), (169, 142), (0, 0, 0, None), (errno.EINVAL,)),
    ("swapon", (34,), (167, 224), (b"/glowplug-no-such-swap", 0), (errno.ENOENT,)),
    ("swapoff", (34,), (168, 225), (b"/glowplug-no-such-swap",), (errno.ENOENT,)),
    ("acct", (34,), (163, 89), (b"/glowplug-no-such-file",), (errno.ENOENT,)),
    (
        "quotactl",
        (34,),
        (179, 60),
        (0x800001 << 8, b"/glowplug-no-such-disk", 0, None),
        (errno.ENOENT, errno.EINVAL, errno.ENOTBLK, errno.ENODEV),
    ),
    ("quotactl_fd", (34,), (443, 443), (-1, 0, 0, None), (errno.EBADF, errno.EINVAL)),
    ("settimeofday", (33,), (164, 170), (struct.pack("=qq", 0, -1), None), (errno.EINVAL,)),
    ("clock_settime", (33,), (227, 112), (0, struct.pack("=qq", 0, -1)), (errno.EINVAL,)),
    ("adjtimex", (33,), (159, 171), (ctypes.create_string_buffer(256),), ()),
    ("clock_adjtime", (33,), (305, 266), (0, ctypes.create_string_buffer(256)), ()),
    ("sethostname", (), (170, 161), (b"", -1), (errno.EINVAL,)),
    ("setdomainname", (), (171, 162), (b"", -1), (errno.EINVAL,)),
    ("iopl", (31,), (172, -1), (3,), ()),
    ("ioperm", (31,), (173, -1), (0x80, 1, 1), ()),
    ("modify_ldt", (31,), (154, -1), (0, ctypes.create_string_buffer(16), 16), ()),
    ("syslog: read the kernel's log", (35,), (103, 116), (3, bytes(4096), 4096), ()),
    ("syslog: its size", (35,), (103, 116), (10, None, 0), ()),
    ("vhangup", (), (153, 58), (), ()),
    ("fanotify_init", (), (300, 262), (0, 0), ()),
    ("lookup_dcookie", (), (212, 18), (0, bytes(16), 16), (errno.EINVAL,)),
    ("name_to_handle_at", (29,), (303, 264), (AT_FDCWD, b"/", b"", None, 0), (errno.EFAULT,)),
    (
        "vmsplice",
        (),
        (278, 75),
        (-1, None, 0, 0),
        (errno.EBADF,),
    ),
    ("memfd_secret", (), (447, 447), (0,), ()),
    ("process_madvise", (21,), (440, 440), (-1, None, 0, 4, 0), (errno.EBADF, errno.EINVAL)),
    ("kcmp", (21,), (312, 272), (os.getpid(), os.getpid(), 1, 0, 0), ()),
    ("personality: no random addresses", (32,), (135, 92), (0x0040000,), ()),
    ("personality: what is read may be executed", (32,), (135, 92), (0x0400000,), ()),
    ("migrate_pages", (), (256, 238), (0, 64, bytes(8), bytes(8)), (errno.EINVAL,)),
)

_WHY = {
    "lookup_dcookie": "the call was taken out of Linux 6.7",
    "quotactl_fd": "the host may lack quotas; then the call is not there for anybody",
    "memfd_secret": "only where the kernel was started with secretmem.enable",
    "vhangup": "it would hang up the terminal that runs the test",
    "personality: no random addresses": "",
}
# These would harm the plain process that is the control, or whoever started it.
_NEVER_FREE = {"vhangup"}


def _ask(numbers: tuple[int, int], arguments: tuple[object, ...], refusals: tuple[int, ...]):
    return lambda: reached(lambda: syscall(*numbers, *arguments), *refusals)


for _title, _numbers, _calls, _arguments, _refusals in _ASKED:
    FAMILY.add(
        _title,
        _ask(_calls, _arguments, _refusals),
        *_numbers,
        control=_WHY[_title] if _title in _NEVER_FREE else "",
    )


@FAMILY("bpf: a map", 24)
def _() -> None:
    attributes = ctypes.create_string_buffer(struct.pack("=IIII", 2, 4, 4, 1) + bytes(104))
    os.close(syscall(321, 280, 0, attributes, 120))


@FAMILY("bpf: a program", 24)
def _() -> None:
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0))
    name = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("=IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(name))
    os.close(syscall(321, 280, 5, ctypes.create_string_buffer(attributes + bytes(120)), 128))


@FAMILY("open_by_handle_at: a file that is not below the root", 28)
def _() -> None:
    buffer = ctypes.create_string_buffer(struct.pack("=II", 128, 0) + bytes(128))
    mount_id = ctypes.c_int()
    called(LIBC.name_to_handle_at(AT_FDCWD, b"/", buffer, ctypes.byref(mount_id), 0))
    root = os.open("/", os.O_RDONLY)
    os.close(called(LIBC.open_by_handle_at(root, buffer, os.O_RDONLY)))


@FAMILY("open_by_handle_at: a guessed handle (Shocker)", 28)
def _() -> None:
    # Inode 2 is the root of ext4, whatever the container's own root is; a stale handle was looked up.
    handle = ctypes.create_string_buffer(struct.pack("=IiII", 8, 1, 2, 0))
    root = os.open("/", os.O_RDONLY)
    reached(
        lambda: os.close(syscall(304, 265, root, handle, os.O_RDONLY)),
        errno.ESTALE,
    )


@FAMILY("a system call by int 0x80", 36)
def _() -> None:
    if not X86:
        raise Held("only on x86")
    # mov eax, 20 (getpid of i386); int 0x80; ret
    _run(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")


@FAMILY("unshare by int 0x80, around the filter", 36)
def _() -> None:
    if not X86:
        raise Held("only on x86")
    # push rbx; mov eax, 310 (unshare of i386); mov ebx, CLONE_NEWUTS; int 0x80; pop rbx; ret
    if _run(b"\x53\xb8\x36\x01\x00\x00\xbb\x00\x00\x00\x04\xcd\x80\x5b\xc3") < 0:
        raise Held("refused")


def _run(code: bytes) -> int:
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return function()


@FAMILY(
    "a system call of x32", 36, control="few kernels have x32; this shows nothing where it is not"
)
def _() -> None:
    syscall(0x40000000 | 39, -1)


@FAMILY("unshare with a number of x32", 36, control="few kernels have x32")
def _() -> None:
    syscall(0x40000000 | 272, -1, 0x04000000)


@FAMILY(
    "a filter of our own that tells somebody outside",
    37,
    control="user notification is allowed: it reaches the process that asks, and nobody else",
)
def _() -> None:
    # The listener of a filter is a descriptor in here; it must not give any power over the shim.
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
    fprog = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", 1, ctypes.addressof(program)))

    def listen() -> None:
        called(LIBC.prctl(38, 1, 0, 0, 0))
        os.close(syscall(317, 277, 1, 8, fprog))
        raise Held("it works on ourselves only, as it may")

    in_child(listen)
