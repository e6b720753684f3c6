"""What a reward function from source code may look like, read without running it.

One function in TRL's signature, harmless imports, no way to names with double underscores. It is a fence against
mistakes and crude tricks, and it makes the code readable for whoever has to accept it; what is clever enough to get
over it is held by the sandbox, in which all of it runs.
"""

from __future__ import annotations

import ast
import importlib
import types
from dataclasses import dataclass

MODULES = ("collections", "difflib", "json", "math", "re", "statistics", "string", "unicodedata")
"""The modules that may be imported."""

MAX_SOURCE = 20_000  # characters

_FORBIDDEN_NAMES = frozenset(
    {
        *("open", "eval", "exec", "compile", "input", "print", "breakpoint", "exit", "quit", "help"),
        *("globals", "locals", "vars", "dir", "getattr", "setattr", "delattr", "memoryview", "super", "type"),
    }
)
_FORBIDDEN_ATTRIBUTES = frozenset(
    # format and its kin reach attributes through text; the rest are frames and code objects.
    {
        "format_map",
        "get_field",
        "Formatter",
        "gi_frame",
        "cr_frame",
        "f_globals",
        "f_locals",
        "f_back",
        "tb_frame",
    }
)
_FORBIDDEN_SYNTAX = {
    ast.ClassDef: "a class",
    ast.AsyncFunctionDef: "an async function",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.Global: "global",
    ast.Nonlocal: "nonlocal",
    ast.With: "with",
    ast.AsyncWith: "async with",
    ast.Delete: "del",
}


@dataclass(frozen=True)
class CheckedSource:
    """What was read of a source.

    Attributes:
        name: the function's.
        parameters: the names of its parameters.
        columns: those that are columns of the data set and have no default.
        takes_all: it takes ``**columns``.
        summary: the first line of its docstring.
        problems: why it cannot be used; empty where it can.
    """

    name: str = ""
    parameters: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    takes_all: bool = False
    summary: str = ""
    problems: tuple[str, ...] = ()


def check_source(source: str, known_columns: tuple[str, ...] | None = None) -> CheckedSource:
    """Read `source`, and say what it defines and what is wrong with it; nothing in it is run, nothing raises.

    `known_columns`: the data set's; a function that needs another one has a problem.
    """
    if not isinstance(source, str) or not source.strip():
        return CheckedSource(problems=("there is no code",))
    if len(source) > MAX_SOURCE:
        return CheckedSource(problems=(f"the code has {len(source)} characters, more than {MAX_SOURCE}",))
    try:
        tree = ast.parse(source)
        problems = _problems(tree)
    except SyntaxError as error:
        return CheckedSource(problems=(f"line {error.lineno}: {error.msg}",))
    except (ValueError, RecursionError, MemoryError, SystemError) as error:  # null bytes, a thousand brackets
        return CheckedSource(problems=(f"the code cannot be read ({type(error).__name__})",))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if len(functions) != 1:
        found = f"exactly one function is needed at the top level; found {len(functions)}"
        return CheckedSource(problems=(found, *problems))
    function = functions[0]
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    optional = {a.arg for a in named[len(named) - len(arguments.defaults) :]}
    optional |= {
        a.arg for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None
    }
    names = tuple(a.arg for a in [*named, *arguments.kwonlyargs])
    given = ("prompts", "completions")
    columns = tuple(name for name in names if name not in given and name not in optional)
    if arguments.posonlyargs or arguments.vararg:
        problems.append("its parameters must be taken by name: f(prompts, completions, **columns)")
    if "completions" not in names:
        problems.append("it has no parameter 'completions'")
    if known_columns is not None:
        for column in columns:
            if column not in known_columns:
                known = ", ".join(known_columns) or "none"
                problems.append(f"it needs a column {column!r}, which the data set lacks (columns: {known})")
    if function.decorator_list:
        problems.append("it has a decorator")
    summary = (ast.get_docstring(function) or "").strip().partition("\n")[0]
    return CheckedSource(
        name=function.name,
        parameters=names,
        columns=columns,
        takes_all=arguments.kwarg is not None,
        summary=summary,
        problems=tuple(dict.fromkeys(problems)),
    )


def _problems(tree: ast.Module) -> list[str]:
    """Everything forbidden that the tree holds, each with its line."""
    problems = []
    for statement in tree.body:
        if not _may_stand_at_the_top(statement):
            problems.append(
                f"line {statement.lineno}: at the top level only imports, constants and the function may stand"
            )
    modules: dict[str, str] = {}  # what the code calls each module that it imports
    for node in ast.walk(tree):
        line = f"line {getattr(node, 'lineno', 0)}: "
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name not in MODULES and alias.name != "collections.abc":
                    problems.append(f"{line}import of {alias.name!r} (allowed: {', '.join(MODULES)})")
                else:
                    root = alias.name.partition(".")[0]
                    modules[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom):
            problems += [line + fault for fault in _from_import(node)]
        elif type(node) in _FORBIDDEN_SYNTAX:
            problems.append(f"{line}{_FORBIDDEN_SYNTAX[type(node)]}")
        for name in _names_in(node):
            if "__" in name:
                problems.append(f"{line}a double underscore in {name!r:.40}")
            elif isinstance(node, ast.Name) and name in _FORBIDDEN_NAMES:
                problems.append(f"{line}the name {name!r}")
            elif isinstance(node, ast.Attribute) and name in _FORBIDDEN_ATTRIBUTES:
                problems.append(f"{line}the attribute {name!r}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            if _hides_a_module(module, node.attr):
                problems.append(f"line {node.lineno}: {module}.{node.attr} is another module")
    return problems


def _may_stand_at_the_top(statement: ast.stmt) -> bool:
    """Imports, functions, constants and texts."""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return all(isinstance(target, ast.Name) for target in targets)
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef)


def _names_in(node: ast.AST) -> list[str]:
    """Every identifier and text of one node that could name something."""
    names = [getattr(node, field, None) for field in ("id", "attr", "arg", "name", "module", "asname")]
    if isinstance(node, ast.Constant):
        names.append(node.value)
    return [name for name in names if isinstance(name, str)]


def _from_import(node: ast.ImportFrom) -> list[str]:
    module = node.module or ""
    if node.level or (module not in MODULES and module != "collections.abc"):
        return [f"import from {module or '.'!r} (allowed: {', '.join(MODULES)})"]
    faults = []
    for alias in node.names:
        if alias.name == "*":
            faults.append(f"import * from {module!r}")
        elif alias.name in _FORBIDDEN_ATTRIBUTES:
            faults.append(f"the name {alias.name!r}")
        elif _hides_a_module(module, alias.name):
            faults.append(f"{module}.{alias.name} is another module")
    return faults


def _hides_a_module(module: str, name: str) -> bool:
    """Modules hold the modules that they import, and those hold everything: ``re.enum.sys``."""
    if (module, name) == ("collections", "abc"):
        return False
    found = getattr(importlib.import_module(module), name, None)
    return isinstance(found, types.ModuleType)
