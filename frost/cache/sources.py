"""Which code decides a result: a digest that changes when a number might, and not when a comment or a message does.

That is the code of frost, followed by its imports, and the versions of the libraries that compute.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = "frost"  # the package whose modules are followed

#: libraries whose next version may give other last digits
LIBRARIES = ("numpy", "scipy", "torch")

#: modules that start processes, check params, count progress, move and describe files; no number comes from them
PLUMBING = {
    "frost.errors",
    "frost.pipeline.processes.claims",
    "frost.pipeline.costs",
    "frost.pipeline.processes.ending",
    "frost.pipeline.processes.executor",
    "frost.pipeline.launch",
    "frost.pipeline.params",
    "frost.pipeline.places",
    "frost.pipeline.progress",
    "frost.pipeline.processes.ranks",
    "frost.pipeline.processes.allocation",
    "frost.pipeline.revisions",
    "frost.pipeline.processes.unfinished",
    "frost.cache.entries",
    "frost.cache.produce",
    "frost.cache.sources",
    "frost.cache.store",
    "frost.evaluation.tables",
    "frost.training.live",
}


def source_digest(*modules: str, alone: Sequence[str] = ()) -> str:
    """sha256 of the syntax trees of `modules` and of all of frost that they import, without `PLUMBING`.

    Of the libraries that any of these imports, the versions of `LIBRARIES` count too.


    `alone`: modules that count themselves, and not what they import: every network, whichever is chosen.
    """
    names = sorted((imported(*modules) - PLUMBING) | set(alone))
    code = [[name, meaning(source(name))] for name in names]
    return hashlib.sha256(json.dumps([code, library_versions(names)]).encode()).hexdigest()


def library_versions(modules: Iterable[str]) -> dict[str, str]:
    """The versions of those `LIBRARIES` that `modules` import, without what says for which device they were built."""
    roots = {name.partition(".")[0] for module in modules for name in _imports(module)}
    return {name: version(name).partition("+")[0] for name in LIBRARIES if name in roots}


def imported(*modules: str) -> set[str]:
    """`modules` and every module of frost that they import, directly or not, at whatever depth in their code."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in _imports(name) if other.partition(".")[0] == ROOT]
    return found


def source(module: str) -> Path:
    """The file of a module, found without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"no source of {module}")
    return Path(spec.origin)


def meaning(file: Path) -> str:
    """What a source file does: its syntax tree without positions, comments and what is for people to read."""
    return ast.dump(_WithoutWords().visit(ast.parse(file.read_bytes())))


def _imports(module: str) -> list[str]:
    """The modules that a module imports by name, as `from . import` and `from package import module` do too."""
    file, names = source(module), []
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names if _holds(origin, alias.name))]
    return names


def _holds(package: str, name: str) -> bool:
    """Whether `name` is a module of a package of frost, not a thing in its `__init__.py`."""
    if package.partition(".")[0] != ROOT or (file := source(package)).stem != "__init__":
        return False
    return (file.parent / f"{name}.py").exists() or (file.parent / name / "__init__.py").exists()


class _WithoutWords(ast.NodeTransformer):
    """Drops strings that stand alone, which are docstrings, what a raised error says, and descriptions of params."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:  # ast's own name
        """Keep all but a lone string."""
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:  # ast's own name
        """Keep that it raises, and what."""
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=kind, cause=None)

    def visit_Call(self, node: ast.Call) -> ast.Call:  # ast's own name
        """Keep of pydantic's `Field` all but its words."""
        if isinstance(node.func, ast.Name) and node.func.id == "Field":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
        self.generic_visit(node)
        return node
