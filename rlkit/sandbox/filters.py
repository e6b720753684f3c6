"""System calls that a program may not make, as a seccomp filter built by libseccomp.

Part of the worker's process: nothing but the standard library, and no import of rlkit. libseccomp knows every
processor's call numbers; it is a C library that Debian, Ubuntu, Fedora and others install with their base system,
and its six functions that are needed here are called directly. Everything that is not listed stays allowed: the files
and the network that a call could reach are walled off elsewhere, and an interpreter needs some 150 calls.
"""

import ctypes
import errno
import os

from kernel import PR_SET_PDEATHSIG, PR_SET_SECCOMP, prctl

KILL_PROCESS, ERRNO, ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000
NOT_EQUAL, MASKED_EQUAL = 1, 7
WORD = 0xFFFF_FFFF  # the kernel reads most arguments as 32 bits, whatever stands above them

CLONE_THREAD = 0x0001_0000
CLONE_NEW = (0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000)
O_ACCMODE, O_TRUNC = 3, 0o1000
AF_UNIX, SOCKET_TYPE, DATAGRAMS = 1, 0xF, (2, 3, 4, 5)

# Whoever calls one of these is attacking: the process is killed, which is reported as "blocked".
HOSTILE = """
    connect bind listen accept accept4 ptrace process_vm_readv process_vm_writev process_madvise
    process_mrelease pidfd_getfd pidfd_send_signal kcmp mount umount umount2 pivot_root chroot unshare setns
    mount_setattr open_tree move_mount fsopen fsconfig fsmount fspick bpf perf_event_open kexec_load kexec_file_load
    init_module finit_module delete_module reboot swapon swapoff sethostname setdomainname settimeofday clock_settime
    clock_settime64 iopl ioperm keyctl add_key request_key userfaultfd io_uring_setup io_uring_enter io_uring_register
    open_by_handle_at name_to_handle_at quotactl quotactl_fd acct syslog vhangup fanotify_init fanotify_mark
    memfd_secret migrate_pages move_pages modify_ldt nfsservctl lookup_dcookie mknod mknodat
"""

# Whoever calls one of these may mean no harm (the C library itself opens sockets to look up a user's name): it fails
# with "operation not permitted".
REFUSED = """
    socket pidfd_open execve execveat memfd_create
    shmget shmat shmctl msgget msgsnd msgrcv msgctl semget semop semctl semtimedop
    mq_open mq_unlink setpriority sched_setaffinity sched_setscheduler sched_setparam sched_setattr ioprio_set
    inotify_init inotify_init1
"""
SIGNALS = ["kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"]
FORKS = ["fork", "vfork"]

# What Landlock does not watch: without a root directory of its own a program could do it to the user's files.
FILE_ATTRIBUTES = """
    chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat setxattr lsetxattr
    fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat truncate truncate64 file_setattr
"""


class Comparison(ctypes.Structure):
    """libseccomp's scmp_arg_cmp: argument number, operation, and the two numbers that it takes."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


class Program(ctypes.Structure):
    """The kernel's sock_fprog: how many instructions, and where."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def library():
    """Load libseccomp; OSError where it is not installed."""
    found = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    found.seccomp_init.restype = ctypes.c_void_p
    found.seccomp_init.argtypes = (ctypes.c_uint32,)
    found.seccomp_release.restype = None
    found.seccomp_release.argtypes = (ctypes.c_void_p,)
    found.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    found.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    )
    found.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return found


def rules(may_fork, own_root):
    """Yield (action, call, comparison or None): the first of `HOSTILE` and so on down this module."""
    refuse = ERRNO | errno.EPERM
    for name in HOSTILE.split():
        yield KILL_PROCESS, name, None
    for name in REFUSED.split():
        yield refuse, name, None
    yield ERRNO | errno.ENOSYS, "clone3", None  # its flags lie in memory; the C library then takes clone
    yield ERRNO | errno.ENOSYS, "openat2", None
    if may_fork:
        for flag in CLONE_NEW:
            yield KILL_PROCESS, "clone", (0, MASKED_EQUAL, flag, flag)
    else:
        for name in FORKS + SIGNALS:
            yield refuse, name, None
        yield refuse, "clone", (0, MASKED_EQUAL, CLONE_THREAD, 0)  # threads are free
    yield refuse, "prlimit64", (0, NOT_EQUAL, 0, 0)  # of another process
    yield refuse, "prctl", (0, MASKED_EQUAL, WORD, PR_SET_PDEATHSIG)  # a program ends with its worker
    yield refuse, "socketpair", (0, NOT_EQUAL, AF_UNIX, 0)
    for kind in DATAGRAMS:  # one of a pair can send to any other that has a name
        yield refuse, "socketpair", (1, MASKED_EQUAL, SOCKET_TYPE, kind)
    for command in (8, 10, 15):  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals to whom one likes
        for name in ("fcntl", "fcntl64"):
            yield refuse, name, (1, MASKED_EQUAL, WORD, command)
    for command in (0x5412, 0x541C, 0x8901, 0x8902):  # TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP
        yield refuse, "ioctl", (1, MASKED_EQUAL, WORD, command)
    if not own_root:
        for name in FILE_ATTRIBUTES.split():
            yield refuse, name, None
        # Disk space at once, in a file that nobody sees any more: writing takes time, and the C library then writes.
        yield ERRNO | errno.EOPNOTSUPP, "fallocate", None
        for name, argument in (("open", 1), ("openat", 2)):  # emptying a file that may only be read
            yield refuse, name, (argument, MASKED_EQUAL, O_TRUNC | O_ACCMODE, O_TRUNC)


def build(may_fork, own_root):
    """Return the filter as bytes for `load`; OSError where libseccomp is missing or refuses a rule."""
    seccomp = library()
    context = seccomp.seccomp_init(ALLOW)
    if not context:
        raise OSError(errno.EINVAL, "seccomp_init failed")
    try:
        for action, name, comparison in rules(may_fork, own_root):
            number = seccomp.seccomp_syscall_resolve_name(name.encode())
            if number == -1:  # newer than this libseccomp, or of other processors only
                continue
            array = (Comparison * 1)(Comparison(*comparison)) if comparison else None
            code = seccomp.seccomp_rule_add_array(context, action, number, int(array is not None), array)
            if code < 0 and number >= 0:
                raise OSError(-code, f"seccomp rule for {name}: {os.strerror(-code)}")
        reading, writing = os.pipe()  # holds 64 KiB; the filter is some 3 KiB
        try:
            code = seccomp.seccomp_export_bpf(context, writing)
        finally:
            os.close(writing)
        with open(reading, "rb") as file:
            compiled = file.read()
        if code < 0:
            raise OSError(-code, f"seccomp_export_bpf: {os.strerror(-code)}")
        return compiled
    finally:
        seccomp.seccomp_release(context)


def load(compiled):
    """Put this process, and whatever it starts, under the filter for good; needs no_new_privs."""
    buffer = ctypes.create_string_buffer(compiled, len(compiled))
    program = Program(len(compiled) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program))
