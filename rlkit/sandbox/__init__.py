"""Run programs that a model wrote: limited, walled in, and judged so that cheating does not pay.

    from rlkit import sandbox

    sandbox.run("def double(x): return 2 * x", ["assert double(3) == 6"]).verdict    # "passed"
    sandbox.run("def double(x): return 7", ["assert double(3) == 6"]).detail         # "assert double(3) == 6: … is 7"
    sandbox.run("while True: pass", limits=sandbox.Limits(seconds=1)).verdict        # "timeout"
    sandbox.active()                                                                 # which walls stand here

**Walls.** Every program gets a process of its own, forked from a small warm server, with limits on time, memory, files,
output and processes; no environment, no descriptors, no network; an empty private directory that is removed afterwards;
and, as far as the system offers them, namespaces, a root directory with libraries only (without installed packages, as
rlkit lies among them with the tests of its tasks), another user, Landlock and seccomp (`isolation` lists what each
keeps out). The training process is neither forked nor reachable.

**Verdicts.** A program could patch the checker, leave with ``os._exit(0)`` or return objects that equal everything, if
checker and expected values were in its process. They are not: the program's process only computes the values of
expressions, which come back as plain data, and the judgement is made outside (`judging`). What is expected never enters
the program's process, so it has to be computed.

Nobody should call this a prison for determined attackers: kernels have bugs. It holds what models write, the
malicious and the clumsy, and it says what stands (`rlkit doctor`).
"""

from rlkit.sandbox.isolation import active
from rlkit.sandbox.limits import Limits, Outcome
from rlkit.sandbox.pool import Pool, read_tests, run

__all__ = ["Limits", "Outcome", "Pool", "active", "read_tests", "run"]
