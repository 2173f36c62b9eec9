"""The project files on which code depends through its imports, found without running it.

sources("from fairnb import plots", root)  # fairnb/__init__.py, fairnb/plots.py, fairnb/tables.py, …
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

RESULTS = "results"  # folder of saved results


def sources(code: str, root: Path) -> set[Path]:
    """Files below `root` that Python code imports, directly or indirectly; SyntaxError if any code is not Python.

    Imports inside functions count. Those for type checkers alone do not, unless the code takes such a name from a package,
    which imports it on first use. The files beside a module that are not Python, such as tables, count too; so does all of
    `results/` if the code, or a module, names it.
    """
    found, waiting = set[Path](), [(code, root)]
    while waiting:
        text, folder = waiting.pop()
        imports, reads_results = _read(text)
        if reads_results:
            found |= {path for path in (root / RESULTS).rglob("*") if path.is_file()}
        for module in _imported(imports, root, folder):
            if module not in found:
                beside = module.parent.iterdir() if module.parent != root else ()
                found |= {module, *(path for path in beside if path.is_file() and path.suffix != ".py")}
                waiting.append((module.read_text(encoding="utf-8"), module.parent))
    return found


@cache
def _read(text: str) -> tuple[list[ast.Import | ast.ImportFrom], bool]:
    """The imports of some code, and whether it names `results/`; cached, since chapters share modules."""
    tree = ast.parse(text)
    imports = [node for node in _without_type_checking(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    plain = [alias for node in imports if isinstance(node, ast.Import) for alias in node.names]
    modules = {alias.asname or alias.name: alias.name for alias in plain}
    for node in ast.walk(tree):  # after `import fairnb`, `fairnb.assess` is as if imported from it
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            imports.append(ast.ImportFrom(modules[node.value.id], [ast.alias(node.attr)], 0))
    words = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return imports, any(word == RESULTS or word.startswith(f"{RESULTS}/") for word in words)


def _imported(imports: list[ast.Import | ast.ImportFrom], root: Path, folder: Path) -> Iterator[Path]:
    """The project's modules among those imported, with the `__init__` of every package."""
    for node in imports:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            package = node.module or ""
            if node.level:
                above = [folder, *folder.parents][node.level - 1].relative_to(root).parts
                package = ".".join([*above, *([package] if package else [])])
            init = root.joinpath(*package.split("."), "__init__.py")
            late = _on_first_use(init.read_text(encoding="utf-8")) if init.is_file() else {}
            names = [package, *(late.get(alias.name, f"{package}.{alias.name}") for alias in node.names)]
        for name in names:
            place = root
            for part in name.split("."):
                place /= part
                yield from (path for path in (place / "__init__.py", place.with_name(f"{part}.py")) if path.is_file())


@cache
def _on_first_use(text: str) -> dict[str, str]:
    """Module of each name that the code of a package imports for type checkers alone."""
    tree = ast.parse(text)
    late = set(ast.walk(tree)) - set(_without_type_checking(tree))
    found = (node for node in late if isinstance(node, ast.ImportFrom) and node.module)
    return {alias.name: str(node.module) for node in found for alias in node.names}


def _without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node except those below `if TYPE_CHECKING:`."""
    yield tree
    if not (isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING"):
        for node in ast.iter_child_nodes(tree):
            yield from _without_type_checking(node)
