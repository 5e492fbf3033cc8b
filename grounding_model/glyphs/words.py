"""The vocabulary of glyph-tiny, a small BERT vocabulary.

Words of glyph scenes and common nouns are whole tokens; any other word is split into letters, so that no input of a
user becomes [UNK].
"""

from __future__ import annotations

import string

from grounding_model.glyphs.pictograms import COLOURS, NOUNS, PLURALS
from grounding_model.inputs.category_lists import read_category_list

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FUNCTION_WORDS = """
    a an the and or with without of in on at to by for from near next beside behind above below under over between
    inside is are be there here we see it this that these those his her its their who which picture photo image scene
    nothing
    left right top bottom middle largest smallest small large big little tall short long old young new
    one two three four five six seven eight nine ten many some few other another both all no not
""".split()
COMMON_WORDS = """
    man men woman women boy girl child children people face head arm leg foot eye hair shirt hat coat shoe animal fish
    duck fox wolf rabbit squirrel raccoon hedgehog deer pig goat lion tiger leaf tree grass water river lake sea sky
    snow sand stone rock mountain hill road street house building door window wall roof floor room garden field forest
    wheel ship train engine tool box bag bottle glass paper map number letter word line circle square triangle brown
    grey gray gold silver dark light bright striped round
""".split()


def words() -> tuple[str, ...]:
    """The vocabulary; the index of a word is its token id."""
    letters = string.ascii_lowercase + string.digits
    pieces = [*string.punctuation, *letters, *(f"##{letter}" for letter in letters)]
    whole = [*COLOURS, *NOUNS, *PLURALS.values(), *FUNCTION_WORDS]
    whole += [word for name in read_category_list("coco") for word in name.lower().split()]
    whole += COMMON_WORDS
    return tuple(dict.fromkeys([*SPECIALS, *pieces, *whole]))
