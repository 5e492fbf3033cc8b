"""Category names of well-known data sets, in the order of each data set; `--texts '$: coco'` looks them up here.

categories/NAME.txt contains one data set, one name per line; categories/odinw.json the 35 sets of Object Detection in
the Wild (arXiv 2204.08790), without the blank category of its ChessPieces.
"""

from __future__ import annotations

import json
from pathlib import Path

from formats.io.errors import InputError, expected_one_of
from formats.label_map import read_label_map

FOLDER = Path(__file__).parent / "categories"
ALIASES = {
    "pascal_voc": "voc",
    "voc07": "voc",
    "voc12": "voc",
    "mscoco": "coco",
    "ms_coco": "coco",
    "obj365v1": "objects365v1",
    "obj365v2": "objects365v2",
    "lvis_v1": "lvis",
}


def category_lists() -> list[str]:
    """The names of the known data sets."""
    return [*sorted(path.stem for path in FOLDER.glob("*.txt")), *_odinw()]


def read_category_list(name: str) -> tuple[str, ...]:
    """The categories of a data set (in any case), or of a file: .txt with one name per line, or a label map.

    Raises InputError, with the closest known name, when the data set is not known.
    """
    if name.strip().endswith((".txt", ".json")):
        return _from_file(Path(name.strip()))
    known = {known_name.lower(): known_name for known_name in category_lists()}
    key = name.strip().lower()
    key = ALIASES.get(key, key)
    if key not in known:
        raise InputError(f"$: {name.strip()}", "is not a known data set", expected_one_of(known.values(), key))
    if known[key] in (odinw := _odinw()):
        return tuple(odinw[known[key]])
    return tuple((FOLDER / f"{key}.txt").read_text(encoding="utf-8").splitlines())


def _from_file(path: Path) -> tuple[str, ...]:
    if path.suffix == ".json":
        return tuple(name for _, name in sorted(read_label_map(path).items()))
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read ({error})", "expected a text file with one name per line") from None
    return tuple(line.strip() for line in lines if line.strip())


def _odinw() -> dict[str, list[str]]:
    return json.loads((FOLDER / "odinw.json").read_text(encoding="utf-8"))
