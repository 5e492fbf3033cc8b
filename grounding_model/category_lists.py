"""Names of the categories of well-known data sets, in their own order; `--texts '$: coco'` asks for them here.

categories/NAME.txt holds one data set, a name a line; categories/odinw.json the 35 of Object Detection in the Wild
(arXiv 2204.08790), without the blank category of its ChessPieces.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path

from formats.problems import InputError

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
    """The data sets that are known."""
    return [*sorted(path.stem for path in FOLDER.glob("*.txt")), *_odinw()]


def read_category_list(name: str) -> tuple[str, ...]:
    """The categories of a data set, whatever the case of its name.

    Raises InputError, with what comes close, when it is not known.
    """
    known = {each.lower(): each for each in category_lists()}
    key = name.strip().lower()
    key = ALIASES.get(key, key)
    if key not in known:
        close = get_close_matches(key, known, n=1)
        hint = f"did you mean '{known[close[0]]}'? " if close else ""
        remedy = f"{hint}want one of {', '.join(known.values())}"
        raise InputError(f"$: {name.strip()}", "no data set of this name", remedy)
    if known[key] in (odinw := _odinw()):
        return tuple(odinw[known[key]])
    return tuple((FOLDER / f"{key}.txt").read_text(encoding="utf-8").splitlines())


def _odinw() -> dict[str, list[str]]:
    return json.loads((FOLDER / "odinw.json").read_text(encoding="utf-8"))
