"""Documented commands do not meet in one work_dir: each labelling has its own, each configuration too."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "flows" / "cli").rglob("*.py"))]
INFER = re.compile(r"groundhog infer (\S+_(?:od|vg)\.json) (\S+) (\S+?)[\s`\"]")


def test_a_work_dir_belongs_to_one_labelling() -> None:
    sources = defaultdict(set)
    for page in PAGES:
        for source, images, work_dir in INFER.findall(page.read_text(encoding="utf-8") + "\n"):
            sources[work_dir].add((source, images))
    assert len(sources) >= 3
    assert {work_dir: labelled for work_dir, labelled in sources.items() if len(labelled) > 1} == {}


def test_a_work_dir_belongs_to_one_configuration() -> None:
    owners = defaultdict(list)
    for path in sorted((ROOT / "configs").glob("*.toml")):
        config = tomllib.loads(path.read_text(encoding="utf-8"))
        work_dir = config.get("work_dir") or config.get("train", {}).get("work_dir")
        if work_dir is not None:
            owners[work_dir].append(path.name)
    assert len(owners) > 50
    assert {work_dir: names for work_dir, names in owners.items() if len(names) > 1} == {}
