"""Which code decides a result: a digest that changes when a number might, and not when a comment or a message does."""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

#: modules that start processes, check params, or move and describe files; no number comes from them
PLUMBING = {"frost.errors", "frost.launch", "frost.params", "frost.sources", "frost.store", "frost.tables"}


def source_digest(*modules: str, alone: Sequence[str] = ()) -> str:
    """sha256 of the syntax trees of `modules` and of all of frost that they import, without `PLUMBING`.

    `alone`: modules that count themselves, and not what they import: every network, whichever is chosen.
    """
    names = sorted((imported(*modules) - PLUMBING) | set(alone))
    return hashlib.sha256(json.dumps([[name, meaning(source(name))] for name in names]).encode()).hexdigest()


def imported(*modules: str) -> set[str]:
    """`modules` and every module of frost that they import, directly or not, at whatever depth in their code."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in _imports(ast.parse(source(name).read_bytes())) if other.startswith("frost")]
    return found


def source(module: str) -> Path:
    """The file of a module, found without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"no source of {module}")
    return Path(spec.origin)


def meaning(file: Path) -> str:
    """What a source file does: its syntax tree without positions, comments, docstrings and the words of errors."""
    return ast.dump(_WithoutWords().visit(ast.parse(file.read_bytes())))


def _imports(tree: ast.AST) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names


class _WithoutWords(ast.NodeTransformer):
    """Drops strings that stand alone, which are docstrings, and what a raised error says."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:  # ast's own name
        """Keep all but a lone string."""
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:  # ast's own name
        """Keep that it raises, and what."""
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=kind, cause=None)
