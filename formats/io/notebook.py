"""Tables as aligned text, and HTML for the notebook view of our objects, without scripts or style sheets."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

SHOWN_ROWS = 20


def html_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of at most SHOWN_ROWS rows, then the number of rows that are not shown. All text is escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = ["".join(f"<td>{escape(str(value))}</td>" for value in row) for row in rows[:SHOWN_ROWS]]
    if (left_out := len(rows) - SHOWN_ROWS) > 0:
        lines.append(f'<td colspan="{len(header)}">… and {left_out} more</td>')
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<table><caption style="text-align: left">{escape(caption)}</caption>{head}<tbody>{body}</tbody></table>'


def aligned_rows(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text with columns below one another."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def html_text(text: str) -> str:
    """Preformatted text, for columns aligned with spaces."""
    return f"<pre>{escape(text)}</pre>"
