"""The structure of the code in numbers: modules per folder, depth and cycles of imports, imports inside functions, and
the places that declare a setting.

    python benchmarks/house.py                  # this tree
    python benchmarks/house.py /tmp/c26635f     # another one, as `git worktree add /tmp/c26635f c26635f` makes it

"Floors" is the length of the longest chain of imports between our modules; a "circle" is a group of modules that import
each other, including imports inside functions. Two settings are followed through the code: a place is a file that
declares them with their default, as a parameter, a field or a flag; files that only pass them on are counted
separately.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("flows", "grounding_model", "formats", "browse")
SETTINGS = ("max_per_image", "score_floor", "chunk_size")
Graph = dict[str, set[str]]


def module_of(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports_of(tree: ast.Module, known: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known or node.module in known:
                    yield inner if inner in known else node.module


def circles_of(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other, directly or indirectly."""

    def reached(start: str) -> set[str]:
        pending, seen = [start], set[str]()
        while pending:
            for other in graph[pending.pop()] - seen:
                seen.add(other)
                pending.append(other)
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def floors_of(graph: Graph) -> int:
    """Number of modules on the longest chain of imports; those of a circle count as one."""
    group_of = {name: name for name in graph} | {name: group[0] for group in circles_of(graph) for name in group}
    groups: Graph = {group: set() for group in group_of.values()}
    for name, uses in graph.items():
        groups[group_of[name]] |= {group_of[other] for other in uses} - {group_of[name]}
    height: dict[str, int] = {}
    while ready := [name for name in groups if name not in height and groups[name] <= set(height)]:
        height |= {name: 1 + max((height[other] for other in groups[name]), default=0) for name in ready}
    return max(height.values(), default=0)


def inner_imports(tree: ast.Module) -> int:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = {
        (node.lineno, node.col_offset)
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return len(found)


def declares(tree: ast.Module, setting: str) -> bool:
    """Whether a file has the setting as a parameter or a field with a default, or as a flag."""
    flag = f"--{setting.replace('_', '-')}"
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == setting and node.value is not None:
            return True
        if isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            defaulted = positional[len(positional) - len(node.defaults) :]
            defaulted += [each for each, default in zip(node.kwonlyargs, node.kw_defaults) if default is not None]
            if any(each.arg == setting for each in defaulted):
                return True
        if isinstance(node, ast.Constant) and node.value == flag:
            return True
    return False


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    paths = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    known = {module_of(root, path) for path in paths}
    modules = {path: tree for path, tree in trees.items() if path.name != "__init__.py"}
    graph = {module_of(root, path): set(imports_of(tree, known)) for path, tree in modules.items()}
    graph = {name: {other for other in uses if other in graph} for name, uses in graph.items()}

    folders = Counter(path.parent.relative_to(root).as_posix() for path in modules)
    print(f"{len(modules)} modules in {len(folders)} folders")
    print("modules a folder: " + ", ".join(f"{folder} {count}" for folder, count in folders.most_common()))
    print(f"floors: {floors_of(graph)}")
    circles = circles_of(graph)
    print(f"circles: {len(circles)}" + "".join(f"\n  {' <-> '.join(group)}" for group in circles))
    for package in PACKAGES:
        inner = {
            path: inner_imports(tree) for path, tree in trees.items() if path.relative_to(root).parts[0] == package
        }
        door = sum(count for path, count in inner.items() if {"cli", "commands"} & set(path.parts))
        print(f"imports inside functions of {package}: {sum(inner.values()) - door}, and {door} of the command line")
    for setting in SETTINGS:
        places = [module_of(root, path) for path, tree in trees.items() if declares(tree, setting)]
        print(f"{setting} is declared with a default in {len(places)} files: {', '.join(places)}")


if __name__ == "__main__":
    main()
