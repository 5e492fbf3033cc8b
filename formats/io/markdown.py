"""Text of users, such as names of categories, in Markdown."""

from __future__ import annotations

import re

# Characters that start markup, HTML or a table cell. Underscores within a word, as in traffic_light, do not.
_MARKUP = re.compile(r"[\\`*<>\[\]|&~$]|(?<!\w)_|_(?!\w)")


def markdown_text(text: str) -> str:
    """The text on one line, escaped so that Markdown shows it as it is (CommonMark 0.31, section 2.4)."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
