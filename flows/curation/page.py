"""The page of a published data set: counts and pictures with their boxes, readable without a network."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from browse.draw import draw_record
from browse.images.pictures import jpeg_of, reduced_picture
from flows.curation.data_card import DataCard, SplitCounts
from formats.huggingface import read_huggingface
from formats.images import safe_join
from formats.io.files import write_whole
from formats.io.plurals import many
from formats.record import Record

PICTURES = 48  # of each split
SIDE = 320  # pixels
_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); }
td { text-align: right; } th { text-align: left; font-weight: 600; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .75rem; }
figure { margin: 0; } img { width: 100%; border-radius: 4px; display: block; }
figcaption { font-size: .8rem; opacity: .75; overflow-wrap: anywhere; }
"""


def write_page(root: Path, card: DataCard) -> None:
    """Writes index.html into the folder of a published data set."""
    body = "".join(_section(root, split, card) for split in card.splits)
    title = html.escape(card.name)
    with write_whole(root / "index.html") as stream:
        stream.write(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
            f"<h1>{title}</h1><p>{html.escape(card.description)}</p>{body}</body></html>\n"
        )


def _section(root: Path, split: SplitCounts, card: DataCard) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{split.boxes.get(name, 0)}</td></tr>" for name in card.categories
    )
    records = list(read_huggingface(root / split.name, categories=card.categories))
    step = max(1, len(records) // PICTURES)  # evenly over the split
    shown = "".join(_figure(root / split.name, record) for record in records[::step][:PICTURES])
    return (
        f"<h2>{html.escape(split.name)}: {many(split.images, 'image')}</h2><table>{rows}</table>"
        f'<div class="pictures">{shown}</div>'
    )


def _figure(folder: Path, record: Record) -> str:
    drawn = draw_record(reduced_picture(safe_join(folder, record.filename), SIDE), record)
    name = html.escape(record.filename)
    count = len(record.instances or ())
    source = base64.b64encode(jpeg_of(drawn)).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{source}" alt="{name} with {many(count, "box")}" loading="lazy">'
        f"<figcaption>{name} · {count}</figcaption></figure>"
    )
