"""The system calls that programs in a container of the embedded engine may not make.

A list of what is refused, everything else is allowed; libseccomp knows the numbers on every architecture. Sources:
https://docs.docker.com/engine/security/seccomp (table "significant syscalls blocked by the default profile") with
https://github.com/moby/profiles/blob/main/seccomp/default.json, and the list of flatpak (common/flatpak-run.c).
Left out: how a program is loaded (`linux.py`).
"""

import ctypes
import errno
import os

from srl_swe.environments.embedded import linux

_REFUSED = (
    # the kernel, its modules and its time
    "acct bpf clock_adjtime clock_adjtime64 clock_settime clock_settime64 create_module delete_module finit_module "
    "get_kernel_syms init_module ioperm iopl kexec_file_load kexec_load lookup_dcookie nfsservctl perf_event_open "
    "query_module quotactl quotactl_fd reboot settimeofday stime swapoff swapon _sysctl sysfs syslog uselib ustat "
    "vhangup vm86 vm86old "
    # name spaces and mounts
    "chroot fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree open_tree_attr pivot_root setns "
    "umount umount2 unshare "
    # not divided by name spaces
    "add_key fanotify_init keyctl name_to_handle_at open_by_handle_at request_key "
    # reached by many an escape
    "io_uring_enter io_uring_register io_uring_setup move_pages userfaultfd"
)
_NAMESPACES = (
    linux.CLONE_NEWNS,
    linux.CLONE_NEWCGROUP,
    linux.CLONE_NEWUTS,
    linux.CLONE_NEWIPC,
    linux.CLONE_NEWUSER,
    linux.CLONE_NEWPID,
    linux.CLONE_NEWNET,
)
_AF_ALG, _AF_VSOCK = 38, 40  # neither belongs to a network namespace
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # put input into another program's terminal

_ALLOW = 0x7FFF_0000
_ERRNO = 0x0005_0000
_ARCH_X86 = 0x4000_0003
_ACT_BADARCH = 2
_EQUAL, _MASKED_EQUAL = 4, 7
_UNKNOWN_CALL = -1


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def seccomp_program() -> bytes | None:
    """Return the assembled filter for this machine, None where libseccomp (2.4 or later) is missing."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
        library.seccomp_init.restype = ctypes.c_void_p
    except (OSError, AttributeError):
        return None
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))
    if not context:
        return None
    try:
        return _assemble(library, context)
    finally:
        library.seccomp_release(context)


def _assemble(library: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    def refuse(name: str, error: int, *comparisons: _Comparison) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN_CALL:  # older than the call: programs cannot rely on it either
            return
        array = (_Comparison * max(1, len(comparisons)))(*comparisons)
        action = ctypes.c_uint32(_ERRNO | error)
        _check(library.seccomp_rule_add_array(context, action, number, len(comparisons), array), name)

    if os.uname().machine == "x86_64":  # or 32-bit programs would go by without a filter
        _check(library.seccomp_arch_add(context, ctypes.c_uint32(_ARCH_X86)), "x86")
    _check(library.seccomp_attr_set(context, _ACT_BADARCH, ctypes.c_uint32(_ERRNO | errno.ENOSYS)), "other machines")
    for name in _REFUSED.split():
        refuse(name, errno.EPERM)
    # A filter cannot look into clone3's arguments; without it the C library uses clone.
    refuse("clone3", errno.ENOSYS)
    for flag in _NAMESPACES:
        refuse("clone", errno.EPERM, _Comparison(0, _MASKED_EQUAL, flag, flag))
    for family in (_AF_ALG, _AF_VSOCK):
        refuse("socket", errno.EAFNOSUPPORT, _Comparison(0, _EQUAL, family, 0))
    for request in (_TIOCSTI, _TIOCLINUX):
        refuse("ioctl", errno.EPERM, _Comparison(1, _MASKED_EQUAL, 0xFFFF_FFFF, request))

    descriptor = os.memfd_create("seccomp")
    try:
        _check(library.seccomp_export_bpf(context, descriptor), "export")
        size = os.lseek(descriptor, 0, os.SEEK_END)
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(-result, f"seccomp filter, {what}: {os.strerror(-result)}")
