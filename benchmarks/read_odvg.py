"""Speed and memory of reading and validating ODVG lines: `python benchmarks/read_odvg.py [FILE]`.

Without FILE it generates files of --lines lines in a temporary folder: 3, 7 and 15 boxes per line, captions of three
phrases, and four times as many lines of 7 boxes, which should take no more memory. Lines per second are of CPU time, so
that other work on the machine does not count; peak memory is that of the reading process, minus its memory before the
first line.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from formats.odvg import read_odvg


def main() -> None:
    """Generates the files if none is given, and measures each in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--lines", type=int, default=100_000, metavar="N", help="default 100000")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure(options.file)
    elif options.file:
        _measure_apart(str(options.file), options.file)
    else:
        _measure_drawn(options.lines)


def _measure_drawn(lines: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.json"
        for boxes, count in ((3, lines), (7, lines), (15, lines), (7, 4 * lines)):
            draw(path, count, boxes, captions=False)
            _measure_apart(f"{boxes} boxes a line", path)
        draw(path, lines, 0, captions=True)
        _measure_apart("captions of 3 phrases", path)


def _measure_apart(title: str, path: Path) -> None:
    print(f"{title}: ", end="", flush=True)
    subprocess.run([sys.executable, __file__, str(path), "--here"], check=True)


def draw(path: Path, lines: int, boxes: int, captions: bool) -> None:
    """Writes lines of a realistic length."""
    chance = random.Random(0)
    with open(path, "w", encoding="utf-8") as stream:
        for index in range(lines):
            image = {"filename": f"train2017/{index:012}.jpg", "height": 480, "width": 640}
            stream.write(json.dumps({**image, **(_caption(chance) if captions else _boxes(chance, boxes))}) + "\n")


def _box(chance: random.Random) -> list[float]:
    x, y = chance.uniform(0, 500), chance.uniform(0, 400)
    return [round(side, 2) for side in (x, y, x + chance.uniform(2, 140), y + chance.uniform(2, 80))]


def _boxes(chance: random.Random, count: int) -> dict:
    instances = [{"bbox": _box(chance), "label": 56, "category": "dining table"} for _ in range(count)]
    return {"detection": {"instances": instances}}


def _caption(chance: random.Random) -> dict:
    caption = "A man with a hat stands beside a wooden table ."
    spans = ([0, 5], [11, 16], [31, 45])
    regions = [
        {"bbox": [_box(chance)], "phrase": caption[start:end], "tokens_positive": [[start, end]]}
        for start, end in spans
    ]
    return {"grounding": {"caption": caption, "regions": regions}}


def measure(path: Path) -> None:
    """Reads the file once and prints what it took."""
    before = peak_megabytes()
    start = time.process_time()
    lines = sum(1 for _ in read_odvg(path))
    seconds = time.process_time() - start
    size = path.stat().st_size / 2**20
    print(
        f"{lines} lines, {size:.0f} MB, {lines / seconds:,.0f} lines a second of one core, "
        f"peak memory {peak_megabytes():.0f} MB, {peak_megabytes() - before:.1f} MB of it for reading"
    )


def peak_megabytes() -> float:
    """The most memory that this process has held.

    Linux says in getrusage what the parent held too, where a process was started from it, but not in /proc.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS gives bytes
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**10


if __name__ == "__main__":
    main()
