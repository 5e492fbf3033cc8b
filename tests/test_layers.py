"""Who may import whom (docs/design.md), and that looking at labels or asking for help stays quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "formats": {"formats"},
    "browse": {"browse", "formats"},
    "grounding_model": {"grounding_model", "formats"},
    "flows": {"flows", "grounding_model", "browse", "formats"},
}
ONLY_IMPORTER = {
    "torch": {"grounding_model"},
    "torchvision": {"grounding_model"},
    "timm": {"grounding_model"},
    "transformers": {"grounding_model"},
    "prefect": {"flows"},
    "prefect_ray": {"flows"},
    "ray": {"flows"},
}
FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The top-level names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_hold(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        assert name not in MAY_IMPORT or name in MAY_IMPORT[package], f"{package} must not import {name}"
        assert name not in ONLY_IMPORTER or package in ONLY_IMPORTER[name], f"{package} must not import {name}"


def test_every_module_stands_on_the_page_of_the_house() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    named = [path for path in FILES if path.name != "__init__.py"]
    # Those of a package inside a package stand there as their folder.
    words = {path: path.name if path.parent.parent == ROOT else f"{path.parent.name}/" for path in named}
    assert [str(path.relative_to(ROOT)) for path, word in words.items() if f"`{word}`" not in page] == []


@pytest.mark.parametrize(
    ("command", "forbidden"),
    [
        ("import formats, formats.odvg, formats.candidates", ("torch", "prefect", "transformers")),
        ("import browse, browse.draw", ("torch", "prefect", "transformers", "timm")),
        ("import flows, grounding_model", ("torch", "prefect", "transformers", "timm", "nltk", "pyarrow")),
        (  # help comes at once
            "from flows.cli import build_parser; build_parser().format_help()",
            ("torch", "prefect", "transformers", "timm", "numpy", "cv2", "matplotlib", "pyarrow", "nltk", "ray"),
        ),
    ],
)
def test_importing_loads_nothing_heavy(command: str, forbidden: tuple[str, ...]) -> None:
    program = f"import sys; {command}; print([name for name in {forbidden} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
