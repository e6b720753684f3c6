"""The process that runs one program: execute it, do what the tests order, write the answers as plain data.

Part of the worker's process: nothing but the standard library, and no import of rlkit. The program shares this process
and may rewrite all of it; that is why nothing here knows what the right answers are, and why whoever reads the answers
(`rlkit.sandbox.judging`) trusts none of them.
"""

import errno
import json
import os
import sys
import types

# What a system says when it does not let a program do something.
NOT_ALLOWED = {
    errno.EPERM,
    errno.EACCES,
    errno.EROFS,
    errno.EFBIG,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENETUNREACH,
    errno.ENETDOWN,
}
DEEPEST = 50
ANSWERS = 3  # the descriptor to which answers go


class NotPlain(Exception):
    """A value that is no plain data."""


def plain(value, depth=0):
    """Spell a value out in JSON's types: lists, tuples, sets and dicts with their kind; the other end is `decode`.

    Subclasses of dict and tuple count as those (Counter, named tuples); anything else must be of the exact type.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if depth >= DEEPEST:
        raise NotPlain(f"nested more than {DEEPEST} deep")
    if kind in (list, set, frozenset):
        return {kind.__name__: [plain(part, depth + 1) for part in value]}
    if isinstance(value, tuple):
        return {"tuple": [plain(part, depth + 1) for part in tuple.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[plain(k, depth + 1), plain(v, depth + 1)] for k, v in dict.items(value)]}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is bytes:
        return {"bytes": value.hex()}
    raise NotPlain(f"a {kind.__name__} is no plain data")


def described(error):
    """Return {"error": what was raised and where in the program, "kind": the verdict that it suggests}."""
    kind = "error"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        kind = "memory"
    elif isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno in NOT_ALLOWED):
        kind = "blocked"
    try:
        text = f"{type(error).__name__}: {error}"[:500]
    except BaseException:
        text = "an exception that cannot be shown"
    line, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "<program>":
            line = step.tb_lineno
        step = step.tb_next
    if isinstance(error, SyntaxError):
        line = error.lineno
    return {"error": text if line is None else f"{text} (line {line})", "kind": kind}


def write(frame):
    """Write one line of answers."""
    data = json.dumps(frame).encode("ascii") + b"\n"
    while data:
        data = data[os.write(ANSWERS, data) :]


def take_orders(orders, namespace):
    """Carry out one test's orders; returns the answers to its questions."""
    answers = []
    for order, what in orders:
        if order == "do":
            exec(compile(what, "<test>", "exec", dont_inherit=True), namespace)
        else:
            questions = [compile(question, "<test>", "eval", dont_inherit=True) for question in what]
            answers.append([plain(eval(question, namespace)) for question in questions])
    return answers


def run(program, tests):
    """Run a program and its tests to the end; what is raised on the way becomes part of the answers.

    With tests the program is a module called "solution", so that what stands under ``if __name__ == "__main__"`` is
    left out; without tests it is "__main__".
    """
    name = "solution" if tests else "__main__"
    module = types.ModuleType(name)
    sys.modules[name] = module
    sys.argv = [name]
    sys.stdout.reconfigure(line_buffering=True)  # so that what was printed before an end by force is seen
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:  # SystemExit, too: a program that leaves has not been tested
        left = isinstance(error, SystemExit) and not tests and error.code in (None, 0)
        write({"ran": True} if left else described(error))
        if not left:
            return
    else:
        write({"ran": True})
    for number, orders in enumerate(tests):
        try:
            write({"test": number, "answers": take_orders(orders, module.__dict__)})
        except BaseException as error:
            write({"test": number, **described(error)})


def leave():
    """Write out what was printed, and end, whatever threads and handlers the program has left behind."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        pass
    os._exit(0)
