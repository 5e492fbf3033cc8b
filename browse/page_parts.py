"""Parts of self-contained HTML pages: text, numbers, tables, plots and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING

import numpy as np

from browse.images.pictures import jpeg_of
from browse.page_style import page_of
from browse.review.arguments import DEFAULT_HOST, DEFAULT_PORT
from formats.io.plots import png_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET_QUALITY = 82  # JPEG; a report stays under some megabytes
PLOT_DPI = 150  # pixels an inch: sharp on screens of twice the density
DRAWN_SIDE = 640  # pixels at most of a drawing, or of each half of one


@dataclass(frozen=True)
class Drawing:
    """A picture of a gallery. pixels: (H, W, 3) uint8 RGB. note: a few words about it, such as its mistakes."""

    pixels: np.ndarray
    name: str
    note: str = ""


def page(title: str, body: str, software: str) -> str:
    """A whole page. body: HTML."""
    return page_of(title, body, f"Written by {html.escape(software)}.")


def number(value: object) -> str:
    """An integer with thousands separators; a dash for anything else."""
    return f"{value:,}" if isinstance(value, int) else "–"


def fraction(value: object) -> str:
    """A number with three decimals; a dash for anything else."""
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def section(title: str, content: str) -> str:
    """A section with a heading. content: HTML."""
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def paragraph(content: str) -> str:
    """A paragraph. content: HTML."""
    return f"<p>{content}</p>"


def review_command(shown: str, command: str) -> str:
    """A command line that opens the review page, with a button that copies it, and a link to the page.

    shown: what it shows, HTML already. The link has no token (browse.review.guard), so that a report can be sent to
    others: the server leads the browser that it has opened to the page, and refuses any other.
    """
    return (
        f'<div class="review"><p>{shown}</p><div class="command"><code tabindex="0">{html.escape(command)}</code>'
        '<button type="button" hidden>Copy</button></div>'
        f'<p>While it runs, its page is at <a href="http://{DEFAULT_HOST}:{DEFAULT_PORT}/">{DEFAULT_HOST}:'
        f"{DEFAULT_PORT}</a> in the browser that it opened.</p><script>{_COPY}</script></div>"
    )


_COPY = """
for (const button of document.querySelectorAll(".command button")) {
  const code = button.previousElementSibling;
  button.hidden = false;
  button.onclick = async () => {
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };
}
"""


def page_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True, spread: bool = False) -> str:
    """numbers: right-align the cells. spread: a row's single value goes over all columns."""
    kinds = [_kind_of([row[column] for row in rows if column < len(row)]) for column in range(len(head))]
    top = "".join(f"<th{kind}>{html.escape(cell)}</th>" for kind, cell in zip(kinds, head))
    lines = []
    for first, *rest in rows:
        over = f' colspan="{len(head) - 1}"' if spread and len(rest) == 1 else ""
        cells = "".join(f"<td{kind}{over}>{html.escape(cell)}</td>" for kind, cell in zip(kinds[1:], rest))
        lines.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    kind = "numbers" if numbers else "words"
    table = f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="wide" tabindex="0">{table}</div>'


def _kind_of(cells: Sequence[str]) -> str:
    """The class attribute of a column with a word in it; "" for numbers, which may have words after them."""
    return "" if all(not cell or cell[0] in "+-−–" or cell[0].isdigit() for cell in cells) else ' class="word"'


def plot(figure: Figure, alternative: str) -> str:
    """A figure as an HTML image. alternative: text for readers who cannot see it."""
    return inline(png_of(figure, PLOT_DPI), "png", alternative, "plot")


def picture(picture: np.ndarray, alternative: str) -> str:
    """Pixels as an HTML image. picture: (H, W, 3) uint8 RGB. alternative: text for readers who cannot see it."""
    return inline(jpeg_of(picture, SHEET_QUALITY), "jpeg", alternative, "sheet")


def gallery(drawings: Sequence[Drawing], key: str, wide: bool = False) -> str:
    """Thumbnails that open the full drawing on top of the page, without a script and with one copy of each picture.

    key: identifier of the gallery, unique in the page. wide: larger thumbnails, fewer in a row.
    """
    items = []
    for position, drawing in enumerate(drawings):
        here = f"{key}-{position + 1}"
        ways = [f'<a href="#{key}-{position}">previous</a>'] if position else []
        ways += [f'<a href="#{key}-{position + 2}">next</a>'] if position + 1 < len(drawings) else []
        ways += [f'<a href="#{here}-small">close</a>']
        image = inline(jpeg_of(drawing.pixels, SHEET_QUALITY), "jpeg", f"{drawing.name}, drawn", "drawing")
        note = f" <span>{html.escape(drawing.note)}</span>" if drawing.note else ""
        items.append(
            f'<li id="{here}-small"><figure id="{here}"><a class="open" href="#{here}">{image}</a><figcaption>'
            f'<bdi>{html.escape(drawing.name)}</bdi>{note}<span class="ways">{" ".join(ways)}</span></figcaption>'
            "</figure></li>"
        )
    return f'<ul class="gallery{" wide-pictures" if wide else ""}">{"".join(items)}</ul>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """A legend of (word, CSS colour) entries."""
    parts = (f'<li><i style="background: {colour}"></i>{html.escape(word)}</li>' for word, colour in entries)
    return f'<ul class="legend">{"".join(parts)}</ul>'


def bars(head: Sequence[str], rows: Sequence[tuple[str, float | None, Sequence[str]]]) -> str:
    """A table whose first number, from 0 to 1, is also drawn as a bar; rows of (name, share, other cells)."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = []
    for name, share, rest in rows:
        length = f' style="--share: {100 * min(max(share or 0.0, 0.0), 1.0):.1f}%"'
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        lines.append(
            f'<tr><th scope="row">{html.escape(name)}</th><td class="bar"{length}>{fraction(share)}</td>{cells}</tr>'
        )
    body = "".join(lines)
    table = f'<table class="numbers"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide" tabindex="0">{table}</div>'


def name_in_words(name: str) -> str:
    """A setting's name as a person reads it: "score threshold", "NMS IoU"."""
    return " ".join({"iou": "IoU", "nms": "NMS"}.get(word, word) for word in name.split("_"))


def setting_in_words(value: object) -> str:
    """A setting as readable text: "on", "0.3", "cat 0.4, dog 0.5"."""
    if value is None or value in ({}, [], ()):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if is_dataclass(value):
        parts = {name: each for name, each in vars(value).items() if each not in (None, {}, [], ())}
        kind = [str(parts.pop("kind"))] if "kind" in parts else []
        return " ".join([*kind, setting_in_words({name_in_words(name): each for name, each in parts.items()})])
    if isinstance(value, dict) and "kind" in value:  # a part of the settings, as JSON has it
        parts = {name_in_words(name): each for name, each in value.items() if name != "kind"}
        return f"{value['kind']} {setting_in_words(parts)}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {setting_in_words(each)}" for name, each in value.items())
    return ", ".join(map(setting_in_words, value)) if isinstance(value, list | tuple) else str(value)


def inline(content: bytes, kind: str, alternative: str, role: str) -> str:
    """An HTML image with its file embedded. kind: "png" or "jpeg". role: its CSS class."""
    encoded = base64.b64encode(content).decode("ascii")
    return f'<img class="{role}" alt="{html.escape(alternative)}" src="data:image/{kind};base64,{encoded}">'
