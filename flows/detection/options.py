"""The options of `groundhog detect`, apart from it so that help comes without the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.labelling.settings import LABELLING, LabellingSettings
from grounding_model.inputs.defaults import SCORE_THRESHOLD


@dataclass(frozen=True)
class DetectOptions:
    """As the command line has them; see `groundhog detect --help`."""

    settings: LabellingSettings = LABELLING  # its score floor is not used: score_threshold is
    score_threshold: float = SCORE_THRESHOLD
    batch_size: int = 1  # the first picture is there soonest
    device: str = "auto"
    palette: str = "category"
    out_dir: Path = Path("outputs")
    save_vis: bool = True
    save_pred: bool = True
    all_scores: bool = False
    fetch: bool = False
