"""The style of self-contained pages (reports, the index of drawn labels): light, dark and for print."""

from __future__ import annotations

import html

STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --faint: #59636e; --line: #d5dae0; --paper: #ffffff;
  --raised: #f5f7f9; --bar: #d3e5f8; --accent: #0b62c4; --good: #116b40; --bad: #b3261e; --warn: #7a4d00;
  --other: #6b2fb3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebee; --faint: #a4adb7; --line: #363c44; --paper: #15181c; --raised: #1e2329; --bar: #23405f;
    --accent: #77b6ff; --good: #58dda0; --bad: #ff9183; --warn: #ffcf70; --other: #cda2ff; }
}
* { box-sizing: border-box; }
body { margin: 2.5rem auto; max-width: 76rem; padding: 0 1.5rem; color: var(--ink); background: var(--paper);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p, footer { color: var(--faint); margin: .3rem 0 .8rem; max-width: 50rem; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", monospace; color: var(--ink); background: var(--raised);
  padding: .1em .35em; border-radius: 4px; overflow-wrap: anywhere; }
.review { margin: 1rem 0; }
.review p { margin: .2rem 0; max-width: none; }
.command { display: flex; align-items: stretch; gap: .5rem; margin: .3rem 0; }
.command code { flex: 0 1 auto; min-width: 0; padding: .45rem .7rem; border: 1px solid var(--line);
  border-radius: 8px; }
.command button { flex: none; font: inherit; font-size: .85rem; color: var(--accent); background: none; cursor: pointer;
  padding: 0 .8rem; min-width: 5rem; border: 1px solid var(--line); border-radius: 8px; }
.command button:hover { border-color: var(--accent); }
.command button[hidden] { display: none; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: .8rem;
  margin: 1rem 0 1.4rem; padding: 0; list-style: none; }
.figures li { padding: .8rem 1rem; border-radius: 10px;
  border: 1px solid var(--line); background: var(--raised); }
.figures .value { display: block; font-size: 1.65rem; font-weight: 650; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.figures .of, .figures .note { display: block; color: var(--faint); font-size: .85rem; }
.figures .of::first-letter { text-transform: uppercase; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { color: var(--faint); font-weight: 600; }
tbody th { font-weight: 500; }
tbody tr:hover { background: var(--raised); }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; padding: .3rem .9rem; }
.numbers .word, .numbers thead th.word:not(:first-child) { text-align: left; }
.words td { overflow-wrap: anywhere; }
.words tbody th { white-space: nowrap; }
img.plot { max-width: 100%; height: auto; max-height: 24rem; background: #fff; border-radius: 8px; }
/* A white plot glares on a dark page: lightness is turned round, hues stay. */
@media (prefers-color-scheme: dark) { img.plot { filter: invert(.91) hue-rotate(180deg); } }
img.sheet { width: 100%; height: auto; border-radius: 8px; }
td.bar { background: linear-gradient(var(--bar) 0 0) 0 50% / var(--share) 70% no-repeat; min-width: 9rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: .9rem;
  margin: .8rem 0; padding: 0; list-style: none; }
.gallery.wide-pictures { grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); }
.gallery li { min-height: 14rem; scroll-margin: 2rem; }
.gallery figure { margin: 0; }
.gallery a.open { display: block; border-radius: 8px; background: var(--raised); border: 1px solid var(--line);
  overflow: hidden; cursor: zoom-in; }
.gallery a.open:hover { border-color: var(--accent); }
.gallery img { display: block; width: 100%; height: 13rem; object-fit: contain; }
.gallery figcaption { display: flex; gap: .7rem; padding-top: .25rem; font-size: .82rem; color: var(--faint); }
.gallery bdi { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; color: var(--ink); }
.gallery figcaption span { flex: none; }
.gallery .ways { display: none; gap: 1.2rem; margin-left: auto; font-size: 1rem; }
.gallery figure:target { position: fixed; inset: 0; z-index: 9; display: flex; flex-direction: column; padding: 1rem;
  background: var(--paper); }
.gallery figure:target a.open { flex: 1; min-height: 0; border: 0; background: none; cursor: default; }
.gallery figure:target img { height: 100%; }
.gallery figure:target .ways { display: flex; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .4rem 0; padding: 0; list-style: none;
  color: var(--faint); font-size: .9rem; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 3px;
  border: 1px solid rgb(0 0 0 / .3); }
footer { margin-top: 3rem; font-size: .85rem; }
@media print { section { break-inside: avoid; } .command button { display: none; } }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
<footer>{footer}</footer>
</body>
</html>
"""


def page_of(title: str, body: str, footer: str, style: str = "") -> str:
    """A self-contained page. body, footer: HTML. style: further CSS, after the common one."""
    return _PAGE.format(title=html.escape(title), body=body, footer=footer, style=STYLE + style)


def headlines_of(figures: list[tuple[str, str, str]]) -> str:
    """The key figures as cards: (what it measures, its value, a note such as the interval)."""
    cards = (
        f'<li><span class="of">{html.escape(of)}</span><span class="value">{html.escape(value)}</span>'
        f'<span class="note">{html.escape(note)}</span></li>'
        for of, value, note in figures
    )
    return f'<ul class="figures">{"".join(cards)}</ul>'
