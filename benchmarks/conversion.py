"""How fast `groundhog convert` is: lines a second of processor time.

    python benchmarks/conversion.py [--lines 20000] [--boxes 3] [--rounds 3] [--keep]

Draws an ODVG file of --lines lines with --boxes boxes each into a temporary folder, and its COCO twin, and converts
them, in each direction by turns; medians. Label maps are included. For YOLO, which writes a file an image, there is
also what reading the lines and creating those files takes without any conversion, which bounds it.

The last speeds, from conversion.json, are printed beside the new ones; --keep writes the new ones there.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median

from read_odvg import draw
from results import arguments, beside, finish, last_ratios, table

from formats.convert import convert
from formats.odvg import read_odvg

FILES = "reading, and creating YOLO's files, alone"


def main() -> None:
    """Generates the files, converts them, and prints a line for each direction."""
    parser = arguments(__doc__, __file__, rounds=3)
    parser.add_argument("--lines", type=int, default=20_000, metavar="N", help="default 20000")
    parser.add_argument("--boxes", type=int, default=3, metavar="N", help="of a line, default 3")
    options = parser.parse_args()
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        drawn = Path(name)
        draw(drawn / "a_od.json", options.lines, options.boxes, captions=False)
        (drawn / "a_label_map.json").write_text('{"56": "dining table"}')
        convert("odvg", "coco", drawn / "a_od.json", drawn / "a.json")
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(dir=drawn) as turn:
                for direction, seconds in one_turn(drawn, Path(turn)).items():
                    taken.setdefault(direction, []).append(seconds)
    speeds = {direction: options.lines / median(seconds) for direction, seconds in taken.items()}
    last = last_ratios(__file__)
    rows = [(direction, beside(speed, last.get(direction))) for direction, speed in speeds.items()]
    print(table((f"from, to, {options.boxes} boxes a line", "lines/s of processor time"), rows))
    finish(__file__, last | speeds, options.keep)


def one_turn(drawn: Path, out: Path) -> dict[str, float]:
    """-> processor seconds of each direction."""
    seconds = {}
    for source, target, path, result in (
        ("odvg", "coco", "a_od.json", "a.json"),
        ("coco", "odvg", "a.json", "b/b_od.json"),
        ("odvg", "yolo", "a_od.json", "yolo"),
    ):
        start = time.process_time()
        convert(source, target, drawn / path, out / result)
        seconds[f"{source}, {target}"] = time.process_time() - start
    texts = [path.read_bytes() for path in sorted((out / "yolo/labels").rglob("*.txt"))]
    (out / "files").mkdir()
    start = time.process_time()
    for _ in read_odvg(drawn / "a_od.json"):
        pass
    for index, text in enumerate(texts):
        file = os.open(f"{out}/files/{index}.txt", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        os.write(file, text)
        os.close(file)
    seconds[FILES] = time.process_time() - start
    return seconds


if __name__ == "__main__":
    main()
