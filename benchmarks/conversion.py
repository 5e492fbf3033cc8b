"""Speed of `groundhog convert`: `python benchmarks/conversion.py`.

Generates an ODVG file of --lines lines with --boxes boxes each in a temporary folder, and the same in COCO format, and
converts them. Lines per second are of CPU time on one core, including label maps; for YOLO, which writes one file per
image, also the time of only creating these files.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from read_odvg import draw

from formats.convert import convert


def main() -> None:
    """Generates the files, converts them, and prints a line for each direction."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=20_000, metavar="N", help="default 20000")
    parser.add_argument("--boxes", type=int, default=3, metavar="N", help="of a line, default 3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "a_od.json", options.lines, options.boxes, captions=False)
        (folder / "a_label_map.json").write_text('{"56": "dining table"}')
        for source, target, path, out in (
            ("odvg", "coco", "a_od.json", "a.json"),
            ("coco", "odvg", "a.json", "b/b_od.json"),
            ("odvg", "yolo", "a_od.json", "yolo"),
        ):
            start = time.process_time()
            convert(source, target, folder / path, folder / out)
            _print(f"{source} to {target}", options.lines, time.process_time() - start)
        texts = [path.read_bytes() for path in sorted((folder / "yolo/labels").rglob("*.txt"))]
        (folder / "files").mkdir()
        start = time.process_time()
        for index, text in enumerate(texts):
            with open(f"{folder}/files/{index}.txt", "wb", buffering=0) as stream:
                stream.write(text)
        _print("creating YOLO's files alone", options.lines, time.process_time() - start)


def _print(title: str, lines: int, seconds: float) -> None:
    print(f"{title}: {lines / seconds:,.0f} lines/s, {seconds:.2f} s of processor time")


if __name__ == "__main__":
    main()
