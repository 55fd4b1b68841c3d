"""Which test functions can pass without asserting anything, found in their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

KEEP_LENGTH = {"enumerate", "zip", "reversed", "sorted", "list", "tuple", "set", "product", "pairwise"}
"""Calls that hand on at least one element if every argument has one (`pairwise` of a literal of two)."""
DEFERRED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def checks(node: ast.AST, helpers: set[str]) -> bool:
    """Whether this node itself asserts: `assert`, `with pytest.raises`, or a call of a helper that asserts."""
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).rsplit(".", 1)[-1]
        return name in helpers or name.startswith("assert") or name in {"raises", "warns", "fail"} or _checked(node)
    return False


def _checked(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "subprocess.run" and any(
        key.arg == "check" and ast.unparse(key.value) == "True" for key in call.keywords
    )


def sure(iterable: ast.expr, constants: dict[str, ast.expr]) -> bool:
    """Whether an iterable has an element whatever the code under test does."""
    if isinstance(iterable, ast.Tuple | ast.List | ast.Set):
        return any(not isinstance(element, ast.Starred) or sure(element.value, constants) for element in iterable.elts)
    if isinstance(iterable, ast.Dict):
        return bool(iterable.keys)
    if isinstance(iterable, ast.Constant):
        return isinstance(iterable.value, str) and bool(iterable.value)
    if isinstance(iterable, ast.Name):
        return iterable.id in constants and sure(constants[iterable.id], constants)
    if not isinstance(iterable, ast.Call):
        return False
    name = ast.unparse(iterable.func).rsplit(".", 1)[-1]
    if name in {"nonempty", "range"}:
        bounds = [argument.value for argument in iterable.args if isinstance(argument, ast.Constant)]
        return name == "nonempty" or (len(bounds) == len(iterable.args) and len(range(*bounds)) > 0)  # type: ignore[arg-type]
    if name in {"items", "values", "keys"} and isinstance(iterable.func, ast.Attribute):
        return sure(iterable.func.value, constants)
    if name == "zip" and any(key.arg == "strict" for key in iterable.keywords):
        return any(sure(argument, constants) for argument in iterable.args)  # the others are as long, or it fails
    return name in KEEP_LENGTH and all(sure(argument, constants) for argument in iterable.args)


def _reached(node: ast.AST, constants: dict[str, ast.expr]) -> Iterator[ast.AST]:
    """Nodes that run whenever `node` does, as far as loops and nested functions decide it."""
    if isinstance(node, DEFERRED):
        return
    yield node
    children: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.For) and not sure(node.iter, constants):
        children = [node.iter, *node.orelse]
    elif isinstance(node, ast.While):
        children = [node.test, *node.orelse]
    for child in children:
        yield from _reached(child, constants)


def constants_of(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """Name -> the expression it is bound to, of names bound once."""
    bound: dict[str, list[ast.expr]] = {}
    for statement in body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            bound.setdefault(ast.unparse(statement.targets[0]), []).append(statement.value)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            bound.setdefault(ast.unparse(statement.target), []).append(statement.value)
    return {name: values[0] for name, values in bound.items() if len(values) == 1}


def vacuous_tests(source: str) -> list[tuple[int, str]]:
    """(line, name) of test functions in which every assertion stands in a loop that may have no element.

    A loop is accepted if its iterable is a literal, a `range` of literals, a name bound once to one of them, or is
    wrapped in `recsys.tests.support.nonempty.nonempty`, which fails on an empty iterable.
    """
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    outer = constants_of(tree.body)
    helpers: set[str] = set()
    for _ in range(3):  # helpers that call helpers
        helpers |= {
            function.name
            for function in functions
            if not function.name.startswith("test_") and any(checks(node, helpers) for node in ast.walk(function))
        }
    rows = []
    for function in functions:
        if function.name.startswith("test_"):
            constants = outer | constants_of(function.body)
            reached = (node for statement in function.body for node in _reached(statement, constants))
            if not any(checks(node, helpers) for node in reached):
                rows.append((function.lineno, function.name))
    return rows
