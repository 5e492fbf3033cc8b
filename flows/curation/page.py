"""The HTML page of a published data set: counts, and pictures with their boxes. Works offline."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from browse.images.colours import colour_of, css_of
from browse.images.pictures import jpeg_of, reduced_picture
from flows.curation.data_card import DataCard, SplitCounts
from formats.huggingface import read_huggingface
from formats.images import safe_join
from formats.io.files import write_whole
from formats.io.plurals import many
from formats.record import Instance, Record

PICTURES = 48  # per split
SIDE = 480  # pixels; about twice the displayed size, for high-density screens
_ROW = 11  # rem, the minimum height of a row of pictures
_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #1d1c1a; --quiet: #6b6862; --line: #e3e0da; --bar: #ece9e3; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161615; --ink: #edebe6; --quiet: #a09c94; --line: #33312e; --bar: #2a2826; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0; }
main { max-width: 76rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 2.5rem; line-height: 1.1; letter-spacing: -.02em; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0; } .lead { color: var(--quiet); margin: 0; max-width: 44rem; }
dl { display: flex; flex-wrap: wrap; gap: 1rem 3rem; margin: 2rem 0; padding: 1.25rem 0;
  border: solid var(--line); border-width: 1px 0; }
dt { font-size: .8rem; color: var(--quiet); } dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.categories { columns: 17rem; column-gap: 2.5rem; list-style: none; padding: 0; margin: 0; font-size: .9rem; }
.categories li { display: grid; grid-template-columns: .75rem minmax(0, 1fr) auto; gap: .6rem; align-items: center;
  padding: .2rem .4rem; margin-bottom: 2px; break-inside: avoid; border-radius: 3px;
  background: linear-gradient(var(--bar) 0 0) 0 0 / var(--share) 100% no-repeat; }
.categories i { width: .75rem; height: .75rem; border-radius: 2px; } .categories span { overflow-wrap: anywhere; }
.categories b { font-weight: 400; color: var(--quiet); font-variant-numeric: tabular-nums; }
.head { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; margin: 3rem 0 1rem; }
.head p { margin: 0; color: var(--quiet); } label { margin-left: auto; cursor: pointer; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem .75rem; } .pictures::after { content: ""; flex: 9999 1 0; }
figure { margin: 0; max-width: 100%; min-width: 0; } figure div { position: relative; }
img { width: 100%; border-radius: 3px; display: block; background: var(--bar); }
svg { position: absolute; inset: 0; width: 100%; height: 100%; }
rect { fill: transparent; stroke-width: 2; vector-effect: non-scaling-stroke; } rect:hover { fill: #fff3; }
section:has(input:not(:checked)) svg { display: none; }
figcaption { display: flex; gap: .75rem; justify-content: space-between; font-size: .75rem; color: var(--quiet);
  padding-top: .3rem; } figcaption span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
figcaption span:last-child { flex: none; }
"""


def write_data_page(root: Path, card: DataCard) -> None:
    """Writes index.html into the folder of a published data set."""
    body = "".join(_section(root, split, card) for split in card.splits)
    title = html.escape(card.name)
    with write_whole(root / "index.html") as stream:
        stream.write(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
            f'<h1>{title}</h1><p class="lead">{html.escape(card.description)}</p>{_facts(card)}{_categories(card)}'
            f"{body}</main></body></html>\n"
        )


def _facts(card: DataCard) -> str:
    people = sum(split.people for split in card.splits)
    facts = {"images": f"{card.images:,}", "boxes": f"{card.boxes:,}", "categories": f"{len(card.categories):,}"}
    facts |= {"boxes without a model's score": f"{people:,}"} if people and card.scored else {}
    facts |= {"licence": html.escape(card.license)}
    for split in card.splits:
        audit = (split.origins[0].get("audit") if split.origins else None) or {}
        for kind in ("precision", "recall"):
            if (found := audit.get(kind)) is not None:
                name = f"{kind} of {html.escape(split.name)}, from {many(audit['reviews'], 'review')}"
                facts[name] = f"{found['low']:.2f} … {found['high']:.2f}"
    return f"<dl>{''.join(f'<div><dt>{name}</dt><dd>{fact}</dd></div>' for name, fact in facts.items())}</dl>"


def _categories(card: DataCard) -> str:
    """The categories with their colours and numbers of boxes, most frequent first."""
    counts = [sum(split.boxes.get(name, 0) for split in card.splits) for name in card.categories]
    longest = max(1, *counts)
    rows = [
        f'<li style="--share: {100 * count / longest:.1f}%"><i style="background: {css_of(colour_of(label))}"></i>'
        f"<span>{html.escape(card.categories[label])}</span><b>{count:,}</b></li>"
        for label, count in sorted(enumerate(counts), key=lambda each: -each[1])
    ]
    return f'<ul class="categories">{"".join(rows)}</ul>'


def _section(root: Path, split: SplitCounts, card: DataCard) -> str:
    records = list(read_huggingface(root / split.name, categories=card.categories))
    step = max(1, -(-len(records) // PICTURES))  # spread evenly over the split
    shown = records[::step]
    some = f", {len(shown)} of them shown" if len(shown) < len(records) else ""
    figures = "".join(_figure(root / split.name, record) for record in shown)
    return (
        f'<section><div class="head"><h2>{html.escape(split.name)}</h2><p>{many(split.images, "image")}{some}, '
        f'{split.empty:,} without objects</p><label><input type="checkbox" checked> boxes</label></div>'
        f'<div class="pictures">{figures}</div></section>'
    )


def _figure(folder: Path, record: Record) -> str:
    picture = reduced_picture(safe_join(folder, record.filename), SIDE)
    source = base64.b64encode(jpeg_of(picture)).decode()
    name = html.escape(record.filename.removeprefix("images/"))
    count = many(len(record.instances or ()), "box")
    aspect = record.width / record.height
    boxes = "".join(map(_rectangle, record.instances or ()))
    return (
        f'<figure style="flex: {aspect * 100:.0f} 1 {aspect * _ROW:.2f}rem"><div>'
        f'<img src="data:image/jpeg;base64,{source}" alt="{name} with {count}" loading="lazy">'
        f'<svg viewBox="0 0 {record.width} {record.height}" preserveAspectRatio="none">{boxes}</svg></div>'
        f'<figcaption><span title="{name}">{name}</span><span>{count}</span></figcaption></figure>'
    )


def _rectangle(instance: Instance) -> str:
    x1, y1, x2, y2 = instance.box
    score = "" if instance.score is None else f" {instance.score:.2f}"
    return (
        f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" '
        f'stroke="{css_of(colour_of(instance.label))}"><title>{html.escape(instance.category)}{score}</title></rect>'
    )
