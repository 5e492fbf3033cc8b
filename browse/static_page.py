"""Writes index.html beside drawn labels: a thumbnail of each image, filtered by category and score, with a link to its
drawing.

The page is self-contained except for the drawings that it links to, and needs no server.
"""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from browse.images.colours import Colour, css_of
from browse.images.pictures import jpeg_of
from browse.page_parts import legend, review_command
from browse.page_style import headlines_of, page_of
from browse.review.compare import CHANGES, compared, named_boxes
from formats.io.files import write_whole
from formats.io.plurals import many
from formats.record import Record

INDEX_NAME = "index.html"
THUMBNAIL = 220  # pixels
THUMBNAIL_QUALITY = 72
MAX_THUMBNAILS = 3000  # about ten kilobytes each; further images are only counted


@dataclass(frozen=True)
class Tile:
    """One drawn image. link: to its drawing, relative to the page. boxes: (name, score or None) each.

    changes: how its boxes differ from the other labels; empty without them.
    """

    filename: str
    link: str
    thumbnail: bytes
    boxes: tuple[tuple[str, float | None], ...]
    changes: tuple[str, ...] = ()


def make_tile(record: Record, drawn: np.ndarray, link: str, other: Record | None = None) -> Tile:
    """Makes the tile of a drawing, (H, W, 3) uint8 RGB. other: the image's record in the other labels."""
    small = Image.fromarray(drawn)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    ours = named_boxes(record)
    changes: tuple[str, ...] = ()
    if other is not None:
        found = compared(ours, named_boxes(other))
        changes = (*found["ours"], *(each for each in found["others"] if each == "lost"))
    boxes = tuple((each["name"], each["score"]) for each in ours)
    return Tile(record.filename, link, jpeg_of(np.asarray(small), THUMBNAIL_QUALITY), boxes, changes)


@dataclass(frozen=True)
class Compared:
    """The labels compared with. name: of their file. words: change -> its word and colour."""

    name: str
    words: Mapping[str, tuple[str, Colour]]

    def word(self, change: str) -> str:
        """The word for a change, or ""."""
        return self.words[change][0]


def write_index(
    folder: Path,
    title: str,
    tiles: Sequence[Tile],
    command: str,
    other: Compared | None = None,
    sheets: Sequence[str] = (),
) -> Path:
    """Writes folder/index.html. command: to review these labels. sheets: links to contact sheets."""
    counts = Counter(name for tile in tiles for name, _ in tile.boxes)
    changes = Counter(change for tile in tiles for change in tile.changes)
    figures = [
        ("images", f"{len(tiles):,}", f"{sum(not tile.boxes for tile in tiles):,} without a box"),
        ("boxes", f"{counts.total():,}", many(len(counts), "different name" if len(counts) > 1 else "name")),
    ]
    if other is not None:
        figures.append((other.word("same"), f"{changes['same']:,}", f"boxes as in {other.name}"))
        figures += [(other.word(change), f"{changes[change]:,}", "boxes") for change in CHANGES]
    shown = tiles[:MAX_THUMBNAILS]
    body = [
        headlines_of(figures),
        review_command("Review them in the browser:", command),
        _sheets(sheets),
        legend([(word, css_of(colour)) for word, colour in other.words.values()]) if other else "",
        _controls(sorted(counts), other),
        f'<div id="tiles">{"".join(_tile(tile, other) for tile in shown)}</div>',
    ]
    if len(tiles) > len(shown):
        body.append(f"<p>{len(tiles) - len(shown):,} more images are drawn in this folder.</p>")
    body.append(f"<script>{_SCRIPT}</script>")
    path = folder / INDEX_NAME
    with write_whole(path) as file:
        file.write(page_of(title, "\n".join(body), "Written by groundhog browse.", _STYLE))
    return path


def _sheets(links: Sequence[str]) -> str:
    if not links:
        return ""
    ways = (f'<a href="{html.escape(quote(link))}">{number}</a>' for number, link in enumerate(links, start=1))
    return f"<p>Contact sheets: {' '.join(ways)}</p>"


def _controls(names: Iterable[str], other: Compared | None) -> str:
    options = "".join(f'<option value="{html.escape(name)}">{html.escape(name)}</option>' for name in names)
    changed = "".join(f'<option value="{each}">{other.word(each)}</option>' for each in CHANGES if other)
    change = f'<label>changed <select id="change"><option value="">any</option>{changed}</select></label>'
    return (
        '<form id="controls" role="search"><label>class <select id="name"><option value="">any</option>'
        f'{options}</select></label><label>score from <input id="low" type="range" min="0" max="1" step="0.01" '
        'value="0"> <output id="low-value">0</output></label><label>to <input id="high" type="range" min="0" max="1" '
        'step="0.01" value="1"> <output id="high-value">1</output></label>'
        '<label>file name <input id="text" type="search"></label>'
        f'{change if other else ""}<span id="count" role="status"></span></form>'
    )


def _tile(tile: Tile, other: Compared | None) -> str:
    counts = Counter(name for name, _ in tile.boxes)
    words = ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts.items()) or "no box"
    data = json.dumps({"boxes": tile.boxes, "changes": sorted(set(tile.changes))})
    counted = Counter(tile.changes) if other else {}
    changed = [
        f'<i style="background: {css_of(other.words[change][1])}"></i>{count} {other.word(change)}'
        for change, count in counted.items()
        if other and change != "same"
    ]
    note = f'<span class="changes">{", ".join(changed)}</span>' if changed else ""
    source = base64.b64encode(tile.thumbnail).decode("ascii")
    return (
        f'<a class="tile" href="{html.escape(quote(tile.link))}" data-of="{html.escape(data)}">'
        f'<img loading="lazy" alt="" src="data:image/jpeg;base64,{source}"><bdi class="file">'
        f"{html.escape(tile.filename)}</bdi><span>{html.escape(words)}</span>{note}</a>"
    )


_STYLE = """
body { max-width: 110rem; }
#controls { display: flex; flex-wrap: wrap; gap: .6rem 1.2rem; align-items: center; position: sticky; top: 0;
  padding: .6rem 0; background: var(--paper); border-bottom: 1px solid var(--line); margin-bottom: 1rem; }
#controls label { color: var(--faint); }
#controls select, #controls input { font: inherit; color: var(--ink); background: var(--raised);
  border: 1px solid var(--line); border-radius: 6px; padding: .15rem .4rem; accent-color: var(--accent); }
#controls input[type="range"] { vertical-align: middle; width: 7rem; padding: 0; }
#controls input[type="search"] { width: 9rem; }
output { display: inline-block; min-width: 2.4em; font-variant-numeric: tabular-nums; }
#count { margin-left: auto; font-variant-numeric: tabular-nums; }
#tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .9rem; }
.tile { display: flex; flex-direction: column; gap: .15rem; padding: .5rem; border: 1px solid var(--line);
  border-radius: 10px; background: var(--raised); color: inherit; text-decoration: none; font-size: .84rem;
  min-width: 0; }
.tile:hover { border-color: var(--accent); }
.tile[hidden] { display: none; }
.tile img { width: 100%; height: 10rem; object-fit: contain; border-radius: 6px; background: var(--line); }
.tile .file { font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.tile .changes { font-weight: 600; }
.tile .changes i { display: inline-block; width: .7em; height: .7em; margin-right: .3em; border-radius: 3px;
  border: 1px solid rgb(0 0 0 / .3); }
"""

_SCRIPT = """
const byId = (id) => document.getElementById(id);
const tiles = [...document.querySelectorAll(".tile")].map((tile) => ({ tile, ...JSON.parse(tile.dataset.of) }));
function show() {
  const [name, low, high] = [byId("name").value, Number(byId("low").value), Number(byId("high").value)];
  const [text, change] = [byId("text").value.trim().toLowerCase(), byId("change")?.value ?? ""];
  const anyScore = low === 0 && high === 1;
  const inRange = (score) => anyScore || (score !== null && score >= low && score <= high);
  const fits = ([of, score]) => (!name || of === name) && inRange(score);
  let count = 0;
  for (const { tile, boxes, changes } of tiles) {
    const shown = ((!name && anyScore) || boxes.some(fits)) && (!change || changes.includes(change))
      && tile.querySelector(".file").textContent.toLowerCase().includes(text);
    tile.hidden = !shown;
    count += shown;
  }
  byId("low-value").textContent = low.toFixed(2);
  byId("high-value").textContent = high.toFixed(2);
  byId("count").textContent = `${count} of ${tiles.length} images`;
}
byId("controls").addEventListener("input", show);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
show();
"""
