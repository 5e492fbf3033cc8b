"""`python -m browse DATA_ROOT ANN_FILE IMG_PREFIX …`, the same as `groundhog browse`: look at labels.

`… browse serve …` reviews them in the browser (browse.review.serve).

A line or picture that cannot be drawn does not end the run; such problems are listed at the end.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from browse.changes import AGAINST_TRUTH, CHANGES, box_changes, draw_changes
from browse.contact_sheet import contact_sheet, side_by_side
from browse.draw import draw_record
from browse.images.colours import Colour
from browse.images.pictures import read_picture, write_jpeg
from browse.review.arguments import add_data_paths, read_data_paths
from browse.review.compare import OtherLabels
from browse.static_page import INDEX_NAME, Compared, Tile, make_tile, write_index
from formats.images import safe_join
from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.io.plurals import first_lines
from formats.io.progress import show_progress
from formats.label_map import read_label_map
from formats.odvg import LineProblem, read_odvg
from formats.record import Record
from formats.review_journal import key_bytes

_log = logging.getLogger(__name__)

MAX_TILES = 20_000  # of index.html
SHEETS_FOLDER = "contact-sheets"
SHEET, SHEET_COLUMNS, SHEET_CELL, SHEET_TITLE = 24, 6, 320, 40  # drawings, columns, pixels, characters
MAX_LISTED = 20  # problems listed at the end; the rest are only counted
DRAWABLE = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}


@dataclass
class Tally:
    """The number of lines drawn. problems: "file name: reason" for each line that could not be drawn."""

    drawn: int = 0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A text with the number of lines drawn and the problems."""
        head = f"{self.drawn} drawn, {len(self.problems)} not drawn"
        return "\n".join([head, *first_lines(self.problems, MAX_LISTED)])


def main(argv: Sequence[str] | None = None, program: str = "groundhog browse") -> int:
    """Returns the exit code: 0 if anything was drawn or there was nothing to draw, 1 if nothing could be drawn, 2 for
    invalid input.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:  # a data root of that name is ./serve
        from browse.review import serve  # a web server, which drawing does without

        return serve.main(arguments[1:], f"{program} serve")
    options = build_parser(program).parse_args(arguments)
    try:
        return run(options)
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Draws and prints a summary; returns the exit code."""
    tally = browse(options)
    print(tally.summary())
    if options.output_dir and tally.drawn:
        print(f"pictures: {options.output_dir}, all of them: {options.output_dir / INDEX_NAME}")
    return 1 if tally.problems and not tally.drawn else 0


def build_parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program,
        description=f"Draw the labels of an ODVG file on its pictures; `{program} serve` reviews them in the browser.",
        epilog=f"example:\n  {program} data/cat cat_train_od_v1.json images -m cat_label_map.json -o seen --not-show",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    add_data_paths(parser)
    parser.add_argument(
        "-o",
        "--output-dir",
        metavar="DIR",
        type=Path,
        help="write the drawn pictures, contact sheets and an index.html to this folder",
    )
    parser.add_argument(
        "--compare", metavar="FILE", help="draw other labels of the same images, or the ground truth, beside these"
    )
    parser.add_argument("--not-show", action="store_true", help="do not open a window")
    parser.add_argument("-n", "--number", metavar="N", type=int, help="stop after N pictures")
    parser.add_argument("--shuffle", action="store_true", help="in random order; the same --seed gives the same order")
    parser.add_argument("--seed", type=int, default=0, help="seed of --shuffle (default 0)")
    parser.add_argument(
        "--show-interval", metavar="S", type=float, default=0.0, help="seconds to show a picture; 0 waits for a key"
    )
    parser.add_argument("--min-score", metavar="S", type=float, default=0.0, help="leave out boxes with a lower score")
    parser.add_argument(
        "--palette", default="category", help='"category" (default), "random", or one colour such as "#ff8800"'
    )


def browse(options: argparse.Namespace) -> Tally:
    """Draws as the options say. Raises InputError if nothing can be drawn at all."""
    annotations, images, label_map_path = read_data_paths(options)
    label_map = None if label_map_path is None else read_label_map(label_map_path)
    window = None
    if not options.not_show:
        _check_display()
        from browse.window import Window  # imports OpenCV, which is needed only here

        window = Window(options.show_interval)
    elif options.output_dir is None:
        raise InputError("--not-show", "without -o there is no output", "expected -o DIR")
    if options.output_dir is not None and options.output_dir.is_file():
        raise InputError(options.output_dir, "is a file", "expected a folder for the pictures")
    if options.output_dir is not None:
        refuse_to_draw_over(options.output_dir, images, annotations)
    other = None if options.compare is None else OtherLabels(_inside(options.data_root, options.compare))
    words = AGAINST_TRUTH if other is not None and other.is_truth else CHANGES
    tally = Tally()
    sheets = None if options.output_dir is None else Sheets(options.output_dir)
    records = _records(annotations, label_map, options, tally)

    compared = 0
    taken: set[Path] = set()
    tiles: list[Tile] = []
    bar = show_progress(unit="picture", desc="draw", total=options.number)
    for record in records:
        if options.number is not None and tally.drawn >= options.number:
            break
        try:
            picture = read_picture(safe_join(images, record.filename))
            drawn = alone = draw_record(picture, record, options.palette)
            theirs = None if other is None else other.record(key_bytes(record.filename, record.caption))
            if theirs is not None and other is not None:
                compared += 1
                alone, drawn = _compared(picture, record, theirs, (annotations.name, other.path.name), words)
            if options.output_dir is not None:
                target = _target(options.output_dir, record.filename, taken)
                _write(drawn, target)
                assert sheets is not None
                sheets.add(drawn, record.filename)
                if len(tiles) < MAX_TILES:
                    tiles.append(make_tile(record, alone, target.relative_to(options.output_dir).as_posix(), theirs))
        except (InputError, OSError) as error:
            if isinstance(error, InputError) and error.location == "palette":
                raise
            tally.problems.append(f"{record.filename}: {error.what if isinstance(error, InputError) else error}")
            continue
        tally.drawn += 1
        bar.update()
        if window is not None and not window.show(drawn):
            break
    bar.close()
    if options.output_dir is not None and tiles:
        beside = None if other is None else Compared(other.path.name, words)
        links = sheets.finish() if sheets is not None else []
        write_index(options.output_dir, annotations.name, tiles, _review_command(options), beside, links)
    if window is not None:
        window.close()
    if other is not None and tally.drawn and not compared:
        _log.warning("%s: contains none of the images that are drawn", other.path)
    return tally


def refuse_to_draw_over(folder: Path, images: Path, annotations: Path) -> None:
    """Raises InputError where a drawing would replace an image: each has the name of its image."""
    target, source = folder.resolve(), images.resolve()
    if not (target.is_relative_to(source) or source.is_relative_to(target)):
        return
    names = {record.filename for record in read_odvg(annotations, on_problem=lambda problem: None)}
    replaced = {os.path.relpath(target / name, source).replace(os.sep, "/") for name in names} & names
    if replaced:
        what = f"the drawing of an image would replace the image {min(replaced)}"
        raise InputError(folder, what, "expected a folder without these images")


class Sheets:
    """Contact sheets of the drawings, SHEET of them on each, in a subfolder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._links = folder, list[str]()
        self._pictures, self._titles = list[np.ndarray](), list[str]()

    def add(self, drawn: np.ndarray, title: str) -> None:
        """drawn: (H, W, 3) uint8 RGB."""
        small = Image.fromarray(drawn)
        small.thumbnail((SHEET_CELL, SHEET_CELL))
        self._pictures.append(np.asarray(small))
        self._titles.append(title if len(title) <= SHEET_TITLE else f"…{title[1 - SHEET_TITLE :]}")
        if len(self._pictures) == SHEET:
            self._write()

    def finish(self) -> list[str]:
        """Writes the last sheet; returns the links to all sheets, relative to the folder of the drawings."""
        if self._pictures:
            self._write()
        return self._links

    def _write(self) -> None:
        link = f"{SHEETS_FOLDER}/{len(self._links) + 1:03d}.jpg"
        sheet = contact_sheet(self._pictures, SHEET_COLUMNS, (SHEET_CELL, SHEET_CELL), self._titles)
        write_jpeg(self._folder / link, sheet)
        self._links.append(link)
        self._pictures, self._titles = [], []


def _compared(
    picture: np.ndarray, record: Record, other: Record, titles: tuple[str, str], words: Mapping[str, tuple[str, Colour]]
) -> tuple[np.ndarray, np.ndarray]:
    """Our record alone, and both side by side; the colours of the boxes show how they differ."""
    changes = box_changes(record, other)
    ours, theirs = (
        draw_changes(picture, record, changes.ours, words),
        draw_changes(picture, other, changes.others, words),
    )
    return ours, side_by_side(ours, theirs, titles)


def _inside(root: Path, name: str) -> Path:
    return root / name if (root / name).is_file() else Path(name)


def _review_command(options: argparse.Namespace) -> str:
    words = ["groundhog", "browse", "serve", str(options.data_root), options.ann_file, options.img_prefix]
    words += ["-m", str(options.label_map_file)] if options.label_map_file else []
    return shlex.join(words + (["--compare", str(options.compare)] if options.compare else []))


def _records(
    annotations: Path, label_map: Mapping[int, str] | None, options: argparse.Namespace, tally: Tally
) -> Iterator[Record]:
    """The records to draw, with the names of the label map; adds broken lines to the tally."""

    def note(problem: LineProblem) -> None:
        tally.problems.append(str(problem.error))

    records: Iterator[Record] = read_odvg(annotations, on_problem=note)
    if options.shuffle:
        shuffled = list(records)
        random.Random(options.seed).shuffle(shuffled)
        records = iter(shuffled)
    for record in records:
        if label_map is not None and record.instances is not None:
            unknown = {instance.label for instance in record.instances} - set(label_map)
            if unknown:
                tally.problems.append(f"{record.filename}: label {min(unknown)} is not in the label map")
                continue
            named = tuple(replace(instance, category=label_map[instance.label]) for instance in record.instances)
            record = replace(record, instances=named)
        yield _without_weak_boxes(record, options.min_score)


def _without_weak_boxes(record: Record, min_score: float) -> Record:
    """Leaves out boxes with a lower score; boxes without one, drawn by a person, stay."""
    if min_score <= 0:
        return record
    if record.instances is not None:
        strong = tuple(i for i in record.instances if i.score is None or i.score >= min_score)
        return replace(record, instances=strong)
    regions = []
    for region in record.regions or ():
        kept = [index for index in range(len(region.boxes)) if not region.scores or region.scores[index] >= min_score]
        boxes, scores = tuple(region.boxes[i] for i in kept), tuple(region.scores[i] for i in kept if region.scores)
        regions.append(replace(region, boxes=boxes, scores=scores))
    return replace(record, regions=None if record.regions is None else tuple(regions))


def _target(folder: Path, filename: str, taken: set[Path]) -> Path:
    """The file of a drawing. Several captions of one picture are numbered; uncommon formats are replaced by JPEG."""
    path = safe_join(folder, filename)
    if path.suffix.lower() not in DRAWABLE:
        path = path.with_name(f"{path.name}.jpg")
    first, number = path, 1
    while path in taken:
        number += 1
        path = first.with_name(f"{first.stem}-{number}{first.suffix}")
    taken.add(path)
    return path


def _write(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path, "wb") as file:
        Image.fromarray(picture).save(file, format=DRAWABLE[path.suffix.lower()], quality=92)


def _check_display() -> None:
    """Raises InputError if no window can be opened, because OpenCV would abort the process."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise InputError("display", "none to open a window on", "use -o DIR --not-show to write pictures instead")


if __name__ == "__main__":
    sys.exit(main(program="python -m browse"))
