"""The options of `groundhog detect`, in a separate module so that its help does not import the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.labelling.settings import LABELLING, LabellingSettings
from grounding_model.inputs.defaults import SCORE_THRESHOLD


@dataclass(frozen=True)
class DetectOptions:
    """The options of the command line; see `groundhog detect --help`."""

    settings: LabellingSettings = LABELLING  # score_threshold is used instead of their score floor
    score_threshold: float = SCORE_THRESHOLD
    batch_size: int = 1  # so that the first picture is ready soon
    device: str = "auto"
    palette: str = "category"
    out_dir: Path = Path("outputs")
    save_vis: bool = True
    save_pred: bool = True
    all_scores: bool = False
    fetch: bool = False
