"""Small changes of a Python file that a test should notice: the operators of `benchmarks/mutation.py`.

Each mutant replaces one expression or statement of the file's text. Left alone, as no property of a computation:
annotations, docstrings and other words, messages of errors and logs, assertions for the type checker, `strict` of
`zip`, decorators, default values of arguments, and the bodies of classes outside their methods (the defaults of a
configuration).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">"),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<"),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "/",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
UNWRAPPED = frozenset(
    (
        "sigmoid",
        "tanh",
        "relu",
        "softmax",
        "log_softmax",
        "logsumexp",
        "exp",
        "log",
        "log1p",
        "log2",
        "abs",
        "sqrt",
        "detach",
        "clamp",
        "clip",
        "minimum",
        "maximum",
        "normalize",
        "logsigmoid",
        "softplus",
        "sort",
        "unique",
        "cumsum",
        "flip",
        "transpose",
        "round",
        "floor",
        "nan_to_num",
    )
)
"""Functions and methods of which a mutant keeps the argument or the object alone."""
SYMMETRIC = frozenset(
    (
        "isinstance",
        "getattr",
        "hasattr",
        "cast",
        "print",
        "zip",
        "min",
        "max",
        "tuple",
        "torch.maximum",
        "torch.minimum",
        "np.maximum",
        "np.minimum",
    )
)
"""Functions whose first two arguments are not swapped."""


@dataclass(frozen=True)
class Mutant:
    """One change of a file.

    Attributes:
        line: of the change, from 1.
        scope: dotted name of the function around it; empty at module level.
        operator: kind of the change.
        start: byte offset at which the replaced text begins.
        end: byte offset behind it.
        before: replaced text.
        after: text in its place.
        nth: of the mutants of its scope that read alike, from 0.
    """

    line: int
    scope: str
    operator: str
    start: int
    end: int
    before: str
    after: str
    nth: int = 0

    def apply(self, source: bytes) -> bytes:
        """The file's text with the change."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def mutants_of(source: bytes) -> list[Mutant]:
    """Every mutant of a file's text, in the order of the text; those that do not compile are left out.

    Args:
        source: UTF-8 text of a Python file.
    """
    found = _Finder(source)
    found.visit(ast.parse(source))
    seen: Counter[tuple[str, str, str, str]] = Counter()
    numbered = []
    for mutant in sorted(found.mutants, key=lambda m: (m.start, m.end, m.after)):
        words = (mutant.scope, mutant.operator, mutant.before, mutant.after)
        if _compiles(mutant, source):
            numbered.append(replace(mutant, nth=seen[words]))
            seen[words] += 1
    return numbered


def _compiles(mutant: Mutant, source: bytes) -> bool:
    try:
        compile(mutant.apply(source), "mutant", "exec")
    except SyntaxError:
        return False
    return True


class _Finder(ast.NodeVisitor):
    """Walks a module and gathers its mutants."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.starts = [0, *accumulate(len(line) for line in source.splitlines(keepends=True))]
        self.scope: list[str] = []
        self.mutants: list[Mutant] = []

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Byte offsets of a node."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt) -> str:
        """Source of a node."""
        start, end = self.span(node)
        return self.source[start:end].decode()

    def add(self, node: ast.expr | ast.stmt, operator: str, *after: str) -> None:
        """Mutants that replace a node."""
        start, end = self.span(node)
        before = self.text(node)
        self.mutants += [
            Mutant(node.lineno, ".".join(self.scope), operator, start, end, before, text)
            for text in after
            if text != before
        ]

    # what is entered, and what is not

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                self.visit(statement)
        self.scope.pop()

    def visit_Raise(self, node: ast.Raise) -> None:
        self.add(node, "no error", "pass")

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Import(self, node: ast.Import) -> None:
        pass

    # changes

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not self.text(node).startswith(("log.", "warnings.", "print")):
            self.add(node, "statement removed", "pass")
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.add(node, "statement removed", "pass")
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if self.text(node.test) == "TYPE_CHECKING":
            return
        self.add(node.test, "condition negated", f"not ({self.text(node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.add(node, "branch", f"({self.text(node.body)})", f"({self.text(node.orelse)})")
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.add(test, "condition", "True", f"not ({self.text(test)})")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            left, right = self.text(node.left), self.text(node.comparators[0])
            changed = [f"(({left}) {operator} ({right}))" for operator in COMPARISONS[type(node.ops[0])]]
            self.add(node, "comparison", *changed)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = " or " if isinstance(node.op, ast.And) else " and "
        self.add(node, "and/or", f"({word.join(f'({self.text(value)})' for value in node.values)})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if not isinstance(node.operand, ast.Constant) or isinstance(node.op, ast.Not):
            self.add(node, "sign or not removed", f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.left, ast.JoinedStr) or (
            isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)
        ):
            return
        left, right = self.text(node.left), self.text(node.right)
        if type(node.op) in ARITHMETIC:
            self.add(node, "arithmetic", f"(({left}) {ARITHMETIC[type(node.op)]} ({right}))")
        if not isinstance(node.op, ast.BitOr):
            self.add(node, "term dropped", f"({left})", f"({right})")
        if isinstance(node.op, ast.Mult | ast.MatMult | ast.Add):
            self.add(node, "term times 0", f"(({left}) * 0 {'+' if isinstance(node.op, ast.Add) else '*'} ({right}))")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add(node, "constant", str(not node.value))
        elif isinstance(node.value, int):
            self.add(node, "constant", str(node.value + 1), *(["0"] if node.value == 1 else []))
        elif isinstance(node.value, float):
            self.add(node, "constant", repr(node.value * 2 if node.value else 1.0))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        for part in ast.walk(node.slice):
            if isinstance(part, ast.Constant):
                self.visit_Constant(part)

    def visit_Call(self, node: ast.Call) -> None:
        called = self.text(node.func)
        if called.startswith(("log.", "warnings.")):
            return
        plain = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
        if len(plain) >= 2 and len(plain) == len(node.args) and called not in SYMMETRIC:
            first, second = plain[0], plain[1]
            start, end = self.span(first)[0], self.span(second)[1]
            between = self.source[self.span(first)[1] : self.span(second)[0]].decode()
            swapped = f"{self.text(second)}{between}{self.text(first)}"
            before = self.source[start:end].decode()
            if swapped != before:
                self.mutants.append(
                    Mutant(node.lineno, ".".join(self.scope), "arguments swapped", start, end, before, swapped)
                )
        name = called.rpartition(".")[2]
        if name in UNWRAPPED:
            function = called.rpartition(".")[0] in ("torch", "F", "np", "math", "") and plain
            kept = plain[0] if function else node.func.value if isinstance(node.func, ast.Attribute) else None
            if kept is not None:
                self.add(node, f"{name} left out", f"({self.text(kept)})")
        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg != "strict":
                self.visit(keyword.value)


def describe(mutants: list[Mutant]) -> Iterator[str]:
    """One line per mutant."""
    for mutant in mutants:
        yield f"{mutant.line}: {mutant.operator}: {mutant.before!r} -> {mutant.after!r}"
