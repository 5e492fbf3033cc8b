"""The settings of a labelling, each declared once: type, default, and the help text of the command line.

`LabellingSettings` determine the candidates, and so the key of the plan; `Execution` determines how the work is done.
To add a setting, declare it here and use it: configurations, deployments and the command line are derived from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from formats.io.errors import InputError, did_you_mean
from formats.io.ranges import Count, check_ranges
from formats.io.settings import setting
from grounding_model.inputs import defaults

Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class View:
    """How an image is shown to the model; boxes are always those of the stored image."""

    scale: tuple[int, int] | None = setting(
        None, "resize images to fit a short and a long side in pixels (default: those of the model)"
    )
    mirrored: bool = setting(False, "show the model mirror images; boxes are those of the stored images")
    upside_down: bool = setting(
        False, "show the model images upside down; boxes are those of the stored images", added_later=True
    )
    transposed: bool = setting(
        False, "show the model images with x and y exchanged; with --mirrored, rotated by 90 degrees", added_later=True
    )


@dataclass(frozen=True, kw_only=True)
class DetectionSettings(View):
    """The settings of a prediction, except for the weights."""

    score_floor: float = setting(
        0.05,
        "store candidates with a higher score than this; a threshold can be chosen later without the model",
        metavar="S",
    )
    max_per_image: Count = setting(
        defaults.MAX_PER_IMAGE, "maximum number of boxes per image", flag="--max-per-img", metavar="N"
    )
    chunk_size: Count | None = setting(
        None,
        "maximum number of categories per prompt; longer lists are split (default: as many as fit)",
        flag="--chunked-size",
        metavar="N",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        defaults.DTYPE,
        "number format of the model's large layers; auto: bfloat16 if the device supports it natively",
        added_later=True,
    )
    max_per_chunk: Count | None = setting(
        None,
        "maximum number of boxes per prompt of a split list, instead of --max-per-img per image (default: none)",
        metavar="N",
        added_later=True,
    )

    def __post_init__(self) -> None:
        if not 0.0 <= self.score_floor < 1.0:
            remedy = f"expected 0 or more and below 1, such as {DetectionSettings.score_floor:g}"
            raise InputError("score_floor", f"{self.score_floor} is outside 0..1", remedy)
        if self.scale is not None and (len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]):
            what, remedy = (
                f"{self.scale} is not a short and a long side",
                "expected two pixel numbers such as 800, 1333",
            )
            raise InputError("scale", what, remedy)
        check_ranges(self)
        if self.dtype not in defaults.DTYPES:
            raise InputError("dtype", repr(self.dtype), f"expected one of {', '.join(defaults.DTYPES)}")

    def with_model(
        self, weights: str, text_encoder: str | Path | None = None, view: View | None = None
    ) -> LabellingSettings:
        """The settings of a labelling by these weights. view: how images are shown, instead of the settings' own."""
        values = values_of(self, DetectionSettings) | values_of(self if view is None else view, View)
        return LabellingSettings(
            **values, weights=weights, text_encoder=None if text_encoder is None else str(text_encoder)
        )

    def detector_arguments(self) -> dict[str, Any]:
        """Keyword arguments for predict_each of a detector."""
        arguments = {
            "score_threshold": self.score_floor,
            "max_per_image": self.max_per_image,
            "scale": self.scale,
            "chunk_size": self.chunk_size,
        }
        # Only passed if set, since other detectors need not support it.
        return arguments if self.max_per_chunk is None else arguments | {"max_per_chunk": self.max_per_chunk}


@dataclass(frozen=True, kw_only=True)
class LabellingSettings(DetectionSettings):
    """The settings that determine the candidates, and so the key of the plan."""

    weights: str = setting(
        defaults.WEIGHTS,
        "mmdet .pth, Hugging Face folder or hub name, or .safetensors of `groundhog weights` (default %(default)s)",
        metavar="W",
    )
    text_encoder: str | None = setting(None, "BERT folder, for weights without a tokenizer", metavar="DIR")


@dataclass(frozen=True)
class Workers:
    """Where shards are labelled.

    runner: threads of this process, one per device; or a Ray cluster (extra groundhog[ray], inside a Prefect flow),
    in which each worker gets a GPU if the cluster has any, else a core.
    devices: for threads, names as in torch; one that is listed twice gets two models. (): those of the caller, by
    default all GPUs of the machine, or its CPU.
    address: of the Ray cluster, "HEAD:6379" on one of its machines or "ray://HEAD:10001"; None: RAY_ADDRESS, else a
    cluster on this machine that ends with the stage.
    Raises InputError for settings of the other runner.
    """

    runner: Literal["threads", "ray"] = "threads"
    devices: tuple[str, ...] = ()
    address: str | None = None

    def __post_init__(self) -> None:
        if self.runner not in ("threads", "ray"):
            raise InputError("workers.runner", repr(self.runner), 'expected "threads" or "ray"')
        if self.runner == "ray" and self.devices:
            raise InputError("workers.devices", "Ray assigns the devices itself", "leave devices empty with Ray")
        if self.runner == "threads" and self.address:
            raise InputError("workers.address", "threads have no address", 'expected runner = "ray" with an address')

    def on(self, device: str) -> Workers:
        """These workers, on this device if they have none of their own."""
        return self if self.devices or self.runner == "ray" else replace(self, devices=(device,))


ONE_EACH = Workers()  # a thread for every GPU of the machine, or one for its CPU


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a labelling is executed. Does not affect the candidates, except for the last bits of their scores."""

    shard_size: Count = setting(
        64, "lines per shard; a killed run loses only the shards it was working on", metavar="N"
    )
    batch_size: Count = setting(4, "images per batch", metavar="N")
    overwrite: bool = setting(False, "replace a plan with other settings in WORK_DIR, and its candidates")
    workers: Workers = ONE_EACH

    def __post_init__(self) -> None:
        check_ranges(self)


LABELLING = LabellingSettings()
EXECUTION = Execution()


def settings_part(settings: Any, part: type[Settings]) -> Settings:
    """An instance of one of the classes above, from an object that has its settings and more."""
    return part(**values_of(settings, part))


def values_of(settings: Any, part: type) -> dict[str, Any]:
    """The settings of a class as a dict, from an object that has them and more."""
    return {each.name: getattr(settings, each.name) for each in fields(part)}


def split(changes: Mapping[str, Any], *parts: type) -> list[dict[str, Any]]:
    """Splits values by name into those of each class. Raises TypeError, like a call, for an unknown name."""
    names = [[each.name for each in fields(part)] for part in parts]
    known = [name for names_of_part in names for name in names_of_part]
    for name in changes:
        if name not in known:
            hint = did_you_mean(known, name) or f"expected one of {', '.join(known)}"
            raise TypeError(f"there is no setting {name!r}; {hint}")
    return [{name: value for name, value in changes.items() if name in names_of_part} for names_of_part in names]


def settings_payload(value: Any) -> Any:
    """Settings as dicts and lists, for records and keys; settings `added_later` are omitted at their default."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = (each for each in fields(value) if not _is_left_out(each, getattr(value, each.name)))
        return {each.name: settings_payload(getattr(value, each.name)) for each in kept}
    if isinstance(value, Mapping):
        return {key: settings_payload(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [settings_payload(item) for item in value]
    return value


def _is_left_out(declared: Any, value: Any) -> bool:
    return declared.metadata.get("added_later", False) and declared.default is not MISSING and value == declared.default
