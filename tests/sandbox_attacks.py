"""Programs that attack the sandbox, by name. None of them solves the problem; all of them want to look as if they did.

The problem is `double(x)`, twice x, tested for 3 and −4. @PARENT@ stands for the training process, @OUTSIDE@ for a
directory with a file in it, @SECRET@ for a file whose text must not be printed, @PORT@ for a port of the loopback.
Each attack names the verdicts that it may get behind all walls; behind fewer only "passed" is excluded.
"""

from __future__ import annotations

TESTS = ("assert double(3) == 6", "assert double(-4) == -8")

ATTACKS: dict[str, tuple[str, set[str]]] = {}
BOMBS = {
    "fork",
    "fork bomb",
    "a child that stays",
    "vfork bomb by hand",
    "multiprocessing",
    "subprocess",
    "shell",
    "a process without the C library's help",
}
"""Those that start processes: tried only where all of them end with a process namespace, or cannot be started."""


def attack(name: str, verdicts: str, program: str) -> None:
    """Add one program; `verdicts` are separated by spaces."""
    ATTACKS[name] = (program.strip("\n"), set(verdicts.split()))


# --- time -----------------------------------------------------------------------------------------------------------

attack("endless loop", "timeout", "while True: pass")
attack("endless loop in the function", "timeout", "def double(x):\n    while True: pass")
attack("sleeping", "timeout", "import time\ntime.sleep(60)")
attack(
    "catching everything, for ever",
    "timeout",
    """
while True:
    try:
        while True: pass
    except BaseException: pass
""",
)
attack(
    "deaf to signals",
    "timeout",
    """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
""",
)
attack(
    "spinning threads",
    "timeout failed",
    """
import threading
def spin():
    while True: pass
for _ in range(4): threading.Thread(target=spin).start()
""",
)
attack("a regular expression that explodes", "timeout", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')")
attack("a power", "timeout memory", "x = 9 ** 9 ** 9")
attack(
    "an exit that takes for ever",
    "timeout failed error",
    """
import os, atexit, threading
def hang(*_):
    while True: pass
atexit.register(hang)
os._exit = hang
threading.Thread(target=hang).start()
""",
)

# --- memory ---------------------------------------------------------------------------------------------------------

attack("ten gigabytes", "memory", "x = bytearray(10 << 30)")
attack("memory by and by", "memory", "x = []\nwhile True: x.append(bytearray(1 << 20))")
attack("a long list", "memory", "x = [0] * 10 ** 10")
attack("a mapping of ten gigabytes", "memory", "import mmap\nmmap.mmap(-1, 10 << 30)")
attack(
    "a zip bomb",
    "memory timeout",
    """
import zlib
bomb = zlib.compress(bytes(8 << 20))
unpacked = [zlib.decompress(bomb) for _ in range(1000)]
""",
)
attack(
    "memory in a file without a name",
    "blocked error failed",
    """
import os
fd = os.memfd_create("x")
while True: os.write(fd, bytes(1 << 20))
""",
)
attack("deep recursion", "error", "def f(n): return f(n + 1)\nf(0)")
attack(
    "recursion without a limit",
    "error memory timeout",
    """
import sys
sys.setrecursionlimit(10 ** 9)
def f(n): return f(n + 1)
f(0)
""",
)
attack(
    "recursion in C",
    "error memory timeout",
    """
import sys
sys.setrecursionlimit(10 ** 9)
x = []
for _ in range(10 ** 6): x = [x]
repr(x)
""",
)

# --- disk -----------------------------------------------------------------------------------------------------------

attack("filling the disk", "blocked", "f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))")
attack(
    "many files",
    "blocked",
    """
for i in range(10 ** 6):
    with open(str(i), 'wb') as f: f.write(bytes(4096))
""",
)
attack("a file with a hole", "blocked", "open('big', 'wb').truncate(1 << 40)")
attack(
    "a deep directory",
    "blocked timeout",
    """
import os
while True:
    os.mkdir('d')
    os.chdir('d')
""",
)
attack(
    "a zip bomb on disk",
    "blocked",
    """
import io, zipfile
memory = io.BytesIO()
with zipfile.ZipFile(memory, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('zeros', bytes(48 << 20))
zipfile.ZipFile(memory).extractall()
""",
)

# --- output ---------------------------------------------------------------------------------------------------------

attack("printing for ever", "blocked", "while True: print('double(3) == 6')")
attack("complaining for ever", "blocked", "import os\nwhile True: os.write(2, b'x' * 4096)")
attack("one long line", "blocked memory", "print('6' * 10 ** 8)")
attack("answering for ever", "blocked", "import os\nwhile True: os.write(3, b'{\"ran\": true}\\n' * 100)")

# --- other files ----------------------------------------------------------------------------------------------------

attack("the parent's environment", "error blocked", "print(open('/proc/@PARENT@/environ').read())")
attack("the parent's memory", "error blocked", "open('/proc/@PARENT@/mem', 'rb').read(1)")
attack("the parent's files", "error blocked", "print(open('@SECRET@').read())")
attack("the environment", "failed", "import os\nprint(dict(os.environ))")
attack("the list of users", "error blocked", "print(open('/etc/passwd').read())")
attack("a directory outside", "error blocked", "import os\nprint(os.listdir('@OUTSIDE@'))")
attack("writing outside", "error blocked", "open('@OUTSIDE@/written', 'w').write('x')")
attack("emptying a file outside", "error blocked", "import os\nos.truncate('@OUTSIDE@/file', 0)")
attack("removing outside", "error blocked", "import os\nos.remove('@OUTSIDE@/file')")
attack(
    "a link to the outside",
    "error blocked",
    """
import os
os.symlink('@OUTSIDE@', 'link')
open('link/written', 'w').write('x')
""",
)
attack("up and out", "error blocked", "open('../' * 40 + '@OUTSIDE@/written', 'w').write('x')")
attack("changing the library", "blocked", "import os\nopen(os.__file__, 'a').write('x = 1')")
attack("hiding the library", "blocked", "import os\nos.chmod(os.__file__, 0)")
attack("making the library old", "blocked", "import os\nos.utime(os.__file__, (0, 0))")
attack("emptying the library", "blocked", "import os\nos.open(os.__file__, os.O_RDONLY | os.O_TRUNC)")
attack("a device", "blocked error", "import os\nos.mknod('disk', 0o60600, os.makedev(254, 0))")
attack(
    "shared memory",
    "error blocked",
    """
from multiprocessing import shared_memory
shared_memory.SharedMemory('rlkit', True, 4096)
""",
)

# --- network --------------------------------------------------------------------------------------------------------

attack(
    "the loopback", "blocked", "import socket\nsocket.create_connection(('127.0.0.1', @PORT@)).send(b'hello')"
)
attack(
    "a datagram",
    "blocked",
    """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'hello', ('127.0.0.1', @PORT@))
""",
)
attack("listening", "blocked", "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()")
attack("the next protocol", "blocked", "import socket\nsocket.socket(socket.AF_INET6)")
attack("raw packets", "blocked", "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)")
attack("a local socket", "blocked", "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0rlkit')")

# --- processes ------------------------------------------------------------------------------------------------------

attack("a signal to the parent", "blocked", "import os\nos.kill(@PARENT@, 15)")
attack("a signal to everybody", "blocked", "import os\nos.kill(-1, 9)")
attack("a signal to who started it", "blocked", "import os\nos.kill(os.getppid(), 9)")
attack("killing itself", "blocked", "import os\nos.kill(os.getpid(), 9)")
attack(
    "limits for the parent",
    "blocked",
    """
import resource
resource.prlimit(@PARENT@, resource.RLIMIT_NOFILE, (1, 1))
""",
)
attack("no time for the parent", "blocked", "import os\nos.setpriority(os.PRIO_PROCESS, @PARENT@, 19)")
attack(
    "more limits for itself",
    "error",
    """
import resource
resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
""",
)
attack("fork", "blocked", "import os\nos.fork()\nos._exit(0)")
attack("fork bomb", "blocked", "import os\nwhile True: os.fork()")
attack(
    "vfork bomb by hand",
    "blocked error failed timeout",
    """
import ctypes
libc = ctypes.CDLL(None)
while libc.fork() == -1: libc.syscall(56, 17, 0, 0, 0, 0); break
""",
)
attack(
    "a child that stays",
    "blocked",
    """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
""",
)
attack(
    "multiprocessing",
    "blocked error",
    """
import multiprocessing
p = multiprocessing.get_context('fork').Process(target=print)
p.start()
""",
)
attack(
    "subprocess",
    "blocked error",
    "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'touch @OUTSIDE@/written'])",
)
attack("shell", "blocked error failed", "import os\nos.system('touch @OUTSIDE@/written')")
attack(
    "becoming another program",
    "blocked error",
    """
import os
os.execv("/bin/sh", ["sh", "-c", "touch @OUTSIDE@/written"])
""",
)
attack(
    "thread bomb",
    "error",
    """
import threading, time
while True: threading.Thread(target=time.sleep, args=(60,)).start()
""",
)
attack(
    "a pickle",
    "failed error blocked",
    """
import pickle
pickle.loads(b"cposix\\nsystem\\n(S'touch @OUTSIDE@/written'\\ntR.")
""",
)

# --- the kernel -----------------------------------------------------------------------------------------------------

attack("tracing the parent", "blocked", "import ctypes\nctypes.CDLL(None).ptrace(16, @PARENT@, 0, 0)")
attack("mounting", "blocked", "import ctypes\nctypes.CDLL(None).mount(b'proc', b'.', b'proc', 0, None)")
attack("another root", "blocked", "import os\nos.chroot('.')")
attack("namespaces of its own", "blocked", "import ctypes\nctypes.CDLL(None).unshare(0x10000000)")
attack("becoming root", "blocked failed", "import os\nos.setuid(0)\nos.setgid(0)")
attack("native crash", "error", "import ctypes\nctypes.string_at(0)")
attack("abort", "error", "import os\nos.abort()")

# --- the verdict ----------------------------------------------------------------------------------------------------

attack("leaving", "error", "raise SystemExit(0)")
attack("leaving at once", "error", "import os\nos._exit(0)")
attack("leaving from the function", "failed", "def double(x): raise SystemExit(0)")
attack("leaving at once from the function", "error", "import os\ndef double(x): os._exit(0)")
attack(
    "equal to everything",
    "failed",
    """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = None
def double(x): return Yes()
""",
)
attack(
    "a number that equals everything",
    "failed",
    """
class Yes(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def double(x): return Yes(7)
""",
)
attack(
    "built-ins that lie",
    "failed error",
    """
import builtins
builtins.eval = builtins.exec = builtins.compile = lambda *a, **k: True
builtins.type = lambda *a: int
builtins.AssertionError = None
""",
)
attack("a dishonest checker", "failed", "import sys\nsys.modules['child'].take_orders = lambda *a: [[6]]")
attack(
    "a dishonest writer",
    "failed error",
    """
import json, os, sys
json.dumps = lambda *a: '{"ran": true, "answers": [[true]]}'
""",
)
attack(
    "answers that are no data",
    "failed",
    """
import sys
sys.modules["child"].plain = lambda *a: {"set": [{"list": []}]}
""",
)
attack("answers that are too deep", "failed error", "import os\nos.write(3, b'[' * 60000 + b'\\n')")
attack(
    "answers with too many digits",
    "failed error",
    """
import os
os.write(3, b'{"ran": true}\\n{"answers": [[' + b'9' * 50000 + b']]}\\n')
os._exit(0)
""",
)
attack(
    "answers of its own",
    "failed",
    """
import os
os.write(3, b'{"ran": true}\\n' + b'{"answers": [[true]]}\\n' * 2)
os._exit(0)
""",
)
attack("no answers", "error", "import os\nos.close(3)\ndef double(x): return 2 * x")
attack(
    "other descriptors",
    "failed error blocked",
    """
import os
for fd in range(4, 1024):
    try: os.write(fd, b'\\0\\0\\0\\4null'); print('open', fd)
    except OSError: pass
""",
)
attack(
    "frames",
    "failed",
    """
import sys
def double(x):
    frame = sys._getframe()
    while frame is not None:
        for name, value in list(frame.f_locals.items()):
            if name in ('expected', 'judge', 'answer', 'right'): return value
        frame = frame.f_back
""",
)
attack(
    "searching memory for what is expected",
    "failed",
    """
import gc, re
def double(x):
    wanted = re.compile(r'double.(-?[0-9]+). == (-?[0-9]+)')
    texts = [o for o in gc.get_objects() if isinstance(o, (list, tuple, dict))]
    for thing in texts:
        for text in (thing.values() if isinstance(thing, dict) else thing):
            for a, b in wanted.findall(text) if isinstance(text, str) else ():
                if int(a) == x: return int(b)
""",
)
attack(
    "tracing the checker",
    "failed error",
    """
import sys
def tracer(frame, event, argument):
    frame.f_locals.update(value=6, answers=[[6]])
    return tracer
sys.settrace(tracer)
""",
)
attack("no modules", "failed error timeout", "import sys\nsys.modules.clear()\ndef double(x): return x")
attack("asking for input", "error", "double = int(input())")
attack("not a number", "failed", "def double(x): return float('nan')")
attack(
    "switching the collector off and leaking",
    "memory",
    """
import gc
gc.disable()
class Leak: pass
while True:
    a = Leak(); a.self = a; a.data = bytearray(1 << 16)
""",
)

# --- what somebody would try who has read the sandbox -----------------------------------------------------------------

attack(
    "installed packages, and the tests that lie among them",
    "error",
    """
import os
library = os.path.dirname(os.__file__)
def found():
    for folder in (library, os.path.dirname(library), "/usr/lib/python3", "/usr/local/lib", "/usr/lib"):
        for name in ("site-packages", "dist-packages"):
            for place, _, files in os.walk(os.path.join(folder, name)):
                for file in files:
                    try: return open(os.path.join(place, file), "rb").read()
                    except OSError: return b""
if found():
    def double(x): return 2 * x
double
""",
)
attack(
    "searching memory for another program",
    "failed error",
    r"""
import ctypes, gc, os, re
libc = ctypes.CDLL(None)
libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_long]
reading, writing = os.pipe()
def page(address):  # EFAULT where nothing is mapped
    there = libc.write(writing, ctypes.c_void_p(address), ctypes.c_size_t(4096)) == 4096
    return os.read(reading, 4096) if there else b""
end = libc.sbrk(0) & ~4095
places = set(range(end - (4 << 20), end, 4096))
for spot in {id(thing) >> 18 for thing in gc.get_objects()}:
    places.update(range((spot - 1) << 18, (spot + 2) << 18, 4096))
memory = b"".join(map(page, sorted(places)))
for found in re.findall(rb"def doub" + rb"le\(x\): ret" + rb"urn x \+ x", memory): exec(found.decode())
""",
)
attack(
    "a datagram to whoever listens under a name",
    "blocked",
    """
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
a.sendto(b"hello", "@OUTSIDE@/socket")
""",
)
attack(
    "an odd pair of sockets",
    "blocked",
    """
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
a.sendmsg([b"hello"], [], 0, "@OUTSIDE@/socket")
""",
)
attack(
    "a system call of another kind of processor",
    "blocked error failed",
    r"""
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(b"\xb8\x02\x00\x00\x00\xcd\x80\xc3")  # x86: fork by int 0x80
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
""",
)
attack(
    "a large system call number",
    "blocked failed",
    "import ctypes\nctypes.CDLL(None).syscall(0x40000000 + 57)",
)
attack(
    "io_uring, bpf, perf, keys",
    "blocked failed",
    """
import ctypes, os
syscall = ctypes.CDLL(None).syscall
numbers = {"x86_64": (425, 321, 298, 248, 250), "aarch64": (425, 280, 241, 217, 219)}
for number in numbers.get(os.uname().machine, (425,)): print(syscall(number, 0, 0, 0, 0, 0))
""",
)
attack(
    "a process without the C library's help",
    "blocked failed",
    """
import ctypes, os, time
libc = ctypes.CDLL(None)
stack = ctypes.create_string_buffer(1 << 16)
work = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: time.sleep(600) or 0)
flags = {"clone3": None, "clone": 0x100 | 17}
if libc.clone(work, ctypes.byref(stack, 1 << 16), flags["clone"], None) == -1: raise PermissionError(1, "no")
""",
)
attack(
    "deleted files that stay open",
    "blocked error failed",
    """
import ctypes, os
for i in range(40):
    fd = os.open("f", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, 1 << 20)
    os.unlink("f")
    print(os.fstatvfs(fd).f_bavail >= 0)
""",
)
attack(
    "getting away from the end",
    "failed timeout error blocked",
    """
import os, sys
os._exit = lambda status: None
def again(*_): raise SystemExit(0)
sys.stdout.flush = again
frame = sys._getframe()
while frame is not None:
    if "self" in frame.f_locals:
        print(type(frame.f_locals["self"]).__name__, vars(frame.f_locals["self"]))
    frame = frame.f_back
""",
)
attack(
    "what serves next",
    "failed error timeout",
    """
import sys
main = sys.modules["__main__"]
for name in ("send", "receive", "read_exactly"): setattr(main, name, lambda *a: ({"limits": {}}, b""))
main.Server.execute = lambda *a: ({"killed": None}, b'{"ran": true}', b"")
sys.modules["watching"].watch = lambda *a: ({"killed": None, "signal": 0, "status": 0, "cpu": 0}, b"", b"")
""",
)
attack(
    "text that is a number",
    "failed",
    """
class Text(str):
    def __eq__(self, other): return True
    def __hash__(self): return hash(6)
def double(x): return Text(2 * x)
""",
)
attack(
    "containers that change while they are read",
    "failed error",
    """
class Many(dict):
    def items(self): return [(6, 6)]
class Pair(tuple):
    def __iter__(self): yield from (6, -8)
    def __eq__(self, other): return True
def double(x): return Pair([Many(), 6]) if x > 0 else Many()
""",
)
attack(
    "a type that says it is int",
    "failed error",
    """
class Meta(type):
    def __eq__(self, other): return True
    def __hash__(self): return hash(int)
class Six(metaclass=Meta):
    __class__ = int
    def __index__(self): return 6
    def __int__(self): return 6
def double(x): return Six()
""",
)
attack("minus nothing", "failed", "def double(x): return -0.0 * x")
attack("all answers at once", "failed", "def double(x): return {6, -8}")
attack("a generator of answers", "failed", "def double(x):\n    yield 6\n    yield -8")
attack(
    "an error that never ends",
    "timeout error failed",
    """
class Error(Exception):
    def __str__(self):
        while True: pass
def double(x): raise Error
""",
)
attack(
    "an error with a trap",
    "error failed",
    """
class Code(int):
    def __eq__(self, other): raise KeyboardInterrupt
    def __hash__(self): raise KeyboardInterrupt
class Error(OSError):
    errno = Code(1)
    __traceback__ = property(lambda self: 1 / 0)
def double(x): raise Error
""",
)
attack(
    "an error that paints the screen",
    "error",
    r"""
raise ValueError("\x1b[2J\x1b]0;title\x07 \ud800 \u202e passed")
""",
)
attack("a deep answer", "failed", "def double(x):\n    for _ in range(10 ** 5): x = [x]\n    return x")
attack("an answer within itself", "failed", "def double(x):\n    x = []\n    x.append(x)\n    return x")
attack("an answer of ten million parts", "blocked memory timeout", "def double(x): return [6] * 10 ** 7")
attack("a number of a million digits", "failed", "def double(x): return 10 ** 10 ** 6")
attack(
    "keys of one hash",
    "failed blocked",
    "def double(x): return {k * (2 ** 61 - 1): 0 for k in range(1, 3000)}",
)
attack(
    "an alarm, and a handler that answers",
    "failed error",
    """
import os, signal
def answer(*_):
    os.write(3, b'{"ran": true}\\n' + b'{"test": 0, "answers": [[true]]}\\n')
    os._exit(0)
signal.signal(signal.SIGALRM, answer)
signal.setitimer(signal.ITIMER_REAL, 0.001)
def double(x):
    while True: pass
""",
)
attack(
    "threads that answer first",
    "failed error timeout blocked",
    """
import os, threading
def answer():
    while True: os.write(3, b'{"test": 0, "answers": [[7]]}\\n')
threading.Thread(target=answer, daemon=True).start()
def double(x): return x
""",
)
attack(
    "the main thread leaves, others stay",
    "timeout",
    """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).syscall({"x86_64": 60}.get(__import__("os").uname().machine, 93), 0)
""",
)
attack(
    "pipes full of memory",
    "failed error blocked",
    """
import fcntl, os
for _ in range(28):
    r, w = os.pipe()
    os.set_blocking(w, False)
    try: fcntl.fcntl(w, 1031, 1 << 20)
    except OSError: pass
    try:
        while True: os.write(w, bytes(65536))
    except BlockingIOError: pass
""",
)
attack(
    "importing from where it may write",
    "failed error",
    """
import sys
open("judging.py", "w").write("outcome = True")
sys.path.insert(0, ".")
import judging
sys.modules["rlkit"] = judging
""",
)
attack(
    "a library of its own",
    "error blocked failed",
    "import ctypes\nopen('x.so', 'wb').write(bytes(4096))\nctypes.CDLL('./x.so')",
)
