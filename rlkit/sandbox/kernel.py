"""What the worker asks of the kernel: namespaces, a root of its own, Landlock, seccomp, limits, fewer rights.

Part of the worker's process: nothing but the standard library, and no import of rlkit. Every function raises OSError,
with the step that failed in its text, where the system does not offer what it does. Sources: the manual pages
namespaces(7), mount_setattr(2), pivot_root(2), landlock(7), seccomp(2), capabilities(7), prctl(2).
"""

import contextlib
import ctypes
import glob
import os
import resource
import struct
import sys

LINUX = sys.platform == "linux"
libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x1000_0000, 0x2000_0000, 0x4000_0000
SEPARATE = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442  # this and Landlock's three have one number on all processors
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 444, 445, 446

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47

PRIVATE = "/tmp"  # the private directory, within a root of its own
THREADS = 16  # beside the processes that may be started

# Where shared libraries and the interpreter's own modules lie.
STDLIB = os.path.realpath(os.path.dirname(os.__file__))
LIBRARIES = [
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    os.path.dirname(os.path.dirname(os.__file__)),
    os.path.dirname(STDLIB),
]
PACKAGES = ("site-packages", "dist-packages")
OURS = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]


def call(name, *arguments):
    """Call a function of the C library; OSError with its name where it returns −1."""
    result = getattr(libc, name)(*arguments)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def syscall(what, number, *arguments):
    """Make a system call that the C library has no function for."""
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option, *values):
    """prctl(2), every value an unsigned long, as the kernel reads them."""
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return call("prctl", ctypes.c_int(option), *padded)


# --- namespaces ---------------------------------------------------------------------------------------------


def unshare(flags):
    """unshare(2); Python has it from 3.12 on only."""
    call("unshare", ctypes.c_int(flags))


def enter_namespaces():
    """Leave the system's users, mounts, network, processes and IPC; returns whether a user namespace was needed.

    With the right to do so (root) no user namespace is made: programs then become another user for good. The next
    process that is forked is the first of the new process namespace.
    """
    try:
        unshare(SEPARATE)
        return False
    except PermissionError:
        uid, gid = os.getuid(), os.getgid()
        unshare(SEPARATE | CLONE_NEWUSER)
        for file, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{file}", "w") as out:
                out.write(text)
        return True


def mount(source, target, kind=None, flags=0, data=None):
    """mount(2)."""
    names = [None if name is None else os.fsencode(name) for name in (source, target, kind, data)]
    call("mount", names[0], names[1], names[2], ctypes.c_ulong(flags), names[3])


def unmount(target):
    """Take a mount away, at once for everybody who looks, for good when nobody uses it any more."""
    call("umount2", os.fsencode(target), ctypes.c_int(MNT_DETACH))


def read_only(target, devices=False):
    """Make the mount at `target`, and what is mounted below it, read-only and without setuid programs."""
    clear = MOUNT_ATTR_NOSUID | (0 if devices else MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV)
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", clear, 0, 0, 0))
    try:
        syscall(
            "mount_setattr",
            SYS_MOUNT_SETATTR,
            ctypes.c_long(AT_FDCWD),
            os.fsencode(target),
            ctypes.c_long(AT_RECURSIVE),
            attributes,
            ctypes.c_size_t(32),
        )
    except OSError:  # before Linux 5.12: the one mount, whose locked flags have to be named again
        kept = os.statvfs(target).f_flag & 0x40F
        mount(None, target, None, MS_REMOUNT | MS_BIND | MS_NOSUID | kept | (0 if devices else MS_RDONLY))


def installed_packages():
    """Return the directories among `LIBRARIES` that programs must not read: installed packages, rlkit among them.

    Programs have the standard library only, and rlkit's own files hold tests with what they expect.
    """
    patterns = [
        f"{path}/{part}{name}" for path in LIBRARIES for part in ("", "python*/") for name in PACKAGES
    ]
    found = {os.path.realpath(path) for pattern in patterns for path in glob.glob(pattern)}
    return sorted({OURS, *(path for path in found if os.path.isdir(path))})


def build_root(base="/sys"):
    """Build a root directory: libraries (read-only, no packages), a few devices, an empty /tmp, and nothing else.

    No home directories, no /etc, no /proc: what is not there cannot be read or changed. It is built on top of `base`, a
    directory that every Linux has and that nothing here needs.
    """
    mount(None, "/", None, MS_REC | MS_PRIVATE)  # nothing that happens here is seen outside
    mount("tmpfs", base, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=2048,mode=755")
    os.umask(0o022)
    bound = []
    for path in dict.fromkeys([*LIBRARIES, *DEVICES]):
        if not os.path.exists(path) or any(path == b or path.startswith(b + "/") for b in bound):
            continue
        target = base + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)  # /lib, which is usr/lib
            continue
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        mount(path, target, None, MS_BIND | MS_REC)
        read_only(target, devices=path in DEVICES)
        bound.append(path)
    for path in installed_packages():
        for outer in bound:
            real = os.path.realpath(outer)
            if path.startswith(real + "/"):
                nothing = base + outer + path[len(real) :]
                mount("tmpfs", nothing, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,mode=755")
    os.makedirs(base + PRIVATE, exist_ok=True)
    os.chdir(base)
    call("pivot_root", b".", b".")
    unmount(".")
    os.chdir("/")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


# --- Landlock -----------------------------------------------------------------------------------------------

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
SPECIAL = 1 << 6 | 1 << 9 | 1 << 11  # making device files and sockets
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
HOME = (1 << 16) - 1 & ~(EXECUTE | SPECIAL | IOCTL_DEV)  # what a program may do in its private directory


def landlock_version():
    """Return which version of Landlock the kernel has; OSError where it has none or does not use it."""
    return syscall("landlock", SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))


def landlock_rules(paths, reads=True, scopes=0b11):
    """Make a set of rules; returns its descriptor.

    `paths`: pairs of a path and the rights that it gives. `reads`: whether reading is ruled at all; writing, TCP ports
    and `scopes` (abstract sockets, signals) always are, as far as this kernel can.
    """
    version = landlock_version()
    handled = ((1 << 13) - 1) & ~(0 if reads else EXECUTE | READ_FILE | READ_DIR)
    for since, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)):
        handled |= right if version >= since else 0
    wanted = (handled, 0b11 if version >= 4 else 0, scopes if version >= 6 else 0)  # files, TCP, scopes
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = (ctypes.c_uint64 * 3)(*wanted)
    rules = syscall(
        "landlock", SYS_LANDLOCK_CREATE, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0)
    )
    for path, rights in paths:
        if not rights & handled:
            continue
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights & handled, opened))
        syscall(
            "landlock",
            SYS_LANDLOCK_ADD,
            ctypes.c_long(rules),
            ctypes.c_long(1),
            rule,
            ctypes.c_uint32(0),
        )
        os.close(opened)
    return rules


def readable(path, hidden):
    """Yield what gives the right to read `path`, but none of the `hidden` directories in it, whose names only are seen.

    The interpreter lists its folder to find modules, so that has to be allowed as a whole.
    """
    if path in hidden:
        return
    if not any(other.startswith(path + "/") for other in hidden):
        yield path, READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        return
    yield path, READ_DIR
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.is_symlink():
                yield from readable(entry.path, hidden)


def library_rules(base):
    """Make Landlock's rules for what lies in directories that everybody else uses, too; returns their descriptor.

    Libraries may be read, and everything be done in `base`, which holds the private directories. They are the same
    for all programs, and some hundred where packages are left out: they are made once.
    """
    hidden = installed_packages()
    libraries = dict.fromkeys(os.path.realpath(path) for path in LIBRARIES if os.path.exists(path))
    return landlock_rules(
        [
            *(rule for path in libraries for rule in readable(path, hidden)),
            *((path, READ_FILE | WRITE_FILE) for path in DEVICES if os.path.exists(path)),
            (base, HOME),
        ]
    )


def landlock(libraries=None):
    """Let this process read libraries, write in its current directory, and reach no other file, port or process.

    `libraries`: what `library_rules` made; it is closed. None: everything may be read, because the root directory holds
    nothing else.
    """
    devices = [(path, READ_FILE | WRITE_FILE) for path in DEVICES if os.path.exists(path)]
    if libraries is None:
        libraries = landlock_rules([("/", READ_FILE | READ_DIR), *devices, (".", HOME)])
        last = ()
    else:
        last = (landlock_rules([*devices, (".", HOME)], reads=False, scopes=0),)
    for rules in (libraries, *last):
        syscall("landlock", SYS_LANDLOCK_RESTRICT, ctypes.c_long(rules), ctypes.c_uint32(0))
        os.close(rules)


# --- rights and limits --------------------------------------------------------------------------------------


def become(user):
    """Become `user` for good, with no group beside its own; None: stay who one is."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def drop_rights():
    """Give up every capability, and the way to get one back; end with the worker."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_PDEATHSIG, 9)
    prctl(PR_SET_DUMPABLE, 0)
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # the last one has passed, or there is nothing to drop
            break
    with contextlib.suppress(OSError):  # before Linux 4.3
        prctl(PR_CAP_AMBIENT, 4)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x2008_0522, 0))
    call("capset", header, ctypes.create_string_buffer(24))


def limit(name, value):
    """Set a limit, soft and hard; a system that does not know it, or has a lower one, keeps its own."""
    kind = getattr(resource, name, None)
    if kind is None:
        return
    try:
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, value))
    except (OSError, ValueError):
        pass


def address_space():
    """Return the bytes of address space that this process takes, before any program."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return 64 << 20


def set_limits(limits, base, count_processes):
    """Set all limits of a program; `base`: bytes of address space that the interpreter has taken already."""
    limit("RLIMIT_CORE", 0)
    limit("RLIMIT_CPU", limits["cpu"])
    limit("RLIMIT_AS", base + (limits["memory_mib"] << 20))
    limit("RLIMIT_FSIZE", limits["file_mib"] << 20)
    limit("RLIMIT_NOFILE", 64)
    limit("RLIMIT_MEMLOCK", 0)
    limit("RLIMIT_MSGQUEUE", 0)
    if count_processes:  # the user's own processes would count otherwise
        limit("RLIMIT_NPROC", limits["processes"] + THREADS)
