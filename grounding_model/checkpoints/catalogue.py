"""The catalogue behind `groundhog weights list`: use, published AP, licence and size of weights. No torch."""

from __future__ import annotations

from typing import NamedTuple

from formats.io.notebook import aligned_rows
from grounding_model.checkpoints.locations import HUB_NAMES
from grounding_model.inputs.defaults import PHOTO_WEIGHTS, WEIGHTS


class Entry(NamedTuple):
    """One set of weights. lvis: zero-shot AP on LVIS minival as published by its authors. parameters: in millions."""

    source: str
    use: str
    lvis: float | None
    licence: str
    parameters: float

    @property
    def gibibytes(self) -> float:
        """Size of the weights in float32. For the memory of training, see `groundhog train --dry-run`."""
        return self.parameters * 1e6 * 4 / 2**30


HUB_TINY = "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_grit_v3det"
HUB_LICENCE = "Apache-2.0"  # of all HUB_NAMES, by their model cards
CATALOGUE = (
    Entry(WEIGHTS, "drawn scenes: the demo and the tests; offline", None, "Apache-2.0", 4.7),
    Entry(PHOTO_WEIGHTS, "photos, from 10 to some hundred labelled ones; offline", None, "Apache-2.0", 6.0),
    Entry(HUB_TINY, "photos without labels", 41.4, "Apache-2.0", 173.0),
    Entry("iSEE-Laboratory/llmdet_tiny", "photos without labels: the first choice", 44.7, "Apache-2.0", 173.0),
    Entry("iSEE-Laboratory/llmdet_base", "the same, better and slower", 48.3, "Apache-2.0", 233.0),
    Entry("iSEE-Laboratory/llmdet_large", "the same, best and slowest", 51.1, "Apache-2.0", 343.1),
)
HEAD: tuple[str, str, str, str, str, str] = (
    "weights",
    "for",
    "LVIS minival AP",
    "licence",
    "million parameters",
    "GiB in float32",
)


def known_licence(weights: str) -> str:
    """The licence of embedded or published weights, by name or the last part of it; "" for others."""
    by_name = {each.source: each.licence for each in CATALOGUE} | dict.fromkeys(HUB_NAMES, HUB_LICENCE)
    names = {part: licence for source, licence in by_name.items() for part in (source, source.rpartition("/")[2])}
    return names.get(weights, "")


def catalogue_rows() -> list[tuple[str, ...]]:
    """The header, and a row for each entry."""
    entries: list[tuple[str, ...]] = [
        (
            each.source,
            each.use,
            "-" if each.lvis is None else f"{each.lvis}",
            each.licence,
            f"{each.parameters:.1f}",
            f"{each.gibibytes:.2f}",
        )
        for each in CATALOGUE
    ]
    return [HEAD, *entries]


def catalogue_table() -> str:
    """The output of `groundhog weights list`: the table, and a command for each entry."""
    lines = [
        aligned_rows(catalogue_rows()),
        "",
        "AP is zero-shot, as published by the authors. Names with a slash are downloaded once, from Hugging Face.",
        "",
    ]
    for each in CATALOGUE:
        lines.append(f"  groundhog init NAME --images DIR {_labels_option(each.source)} --weights {each.source}")
    return "\n".join(lines)


def short_table() -> str:
    """The entries for the help of `groundhog init`, in 80 columns: weights, use, AP, GiB in float32."""
    return "\n".join(
        f"  {each.source}\n      {each.use}; {'' if each.lvis is None else f'AP {each.lvis}, '}{each.gibibytes:.2f} GiB"
        for each in CATALOGUE
    )


def _labels_option(source: str) -> str:
    return "--labels FILE" if source == PHOTO_WEIGHTS else "--categories A,B"
