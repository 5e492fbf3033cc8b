"""The flows, and what `groundhog up` serves."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from prefect import flow, serve
from prefect.artifacts import create_markdown_artifact
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.states import Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict

from flows import tasks
from flows.self_training import Event, SelfTrainConfig, read_self_train
from flows.self_training import self_train as run_rounds
from flows.server import prefect_server
from formats.problems import InputError

CONFIGS = {"cat": "self_train_cat.toml", "flickr30k": "self_train_flickr30k.toml", "glyphs": "self_train_glyphs.toml"}


class Parameters(BaseModel):
    """What every set of parameters here is: a misspelt name is refused."""

    model_config = ConfigDict(extra="forbid")


class SelfTrainParameters(Parameters):
    """config: a TOML file, relative to where `groundhog up` runs. overrides: like "rounds=2"."""

    config: str
    overrides: list[str] = []


class BootstrapParameters(Parameters):
    """categories or captions: one of them."""

    images: str
    out: str
    categories: list[str] | None = None
    captions: str | None = None


class InferParameters(Parameters):
    """As flows.plan has them."""

    source: str
    image_root: str
    work_dir: str
    weights: str = "glyph-tiny"
    label_map: str | None = None
    text_encoder: str | None = None
    scale: tuple[int, int] = (800, 1333)
    device: str = "auto"


class FilterParameters(Parameters):
    """work_dir: of infer. policy: as flows.Policy has it."""

    work_dir: str
    out: str | None = None
    policy: dict[str, Any] = {}


class MergeParameters(Parameters):
    """Fields of OdvgData (pseudo) and of OdvgData or GlyphData, told apart by `kind` (pretraining)."""

    pseudo: dict[str, Any]
    pretraining: list[dict[str, Any]] = []
    ratio: float = 1.0
    out: str


class ConfigParameters(Parameters):
    """config: a TOML file of `groundhog train` or `groundhog evaluate`."""

    config: str
    overrides: list[str] = []


@flow(name="self-train", task_runner=ThreadPoolTaskRunner(max_workers=tasks.MAX_DEVICES))
def self_train(parameters: SelfTrainParameters) -> dict[str, str] | State:
    """Label, train, label again: the rounds of a configuration. Gives the last labels and weights."""
    try:
        return _self_train(read_self_train(parameters.config, tuple(parameters.overrides)))
    except InputError as error:
        # `prefect deployment run --watch` shows a state's name and nothing else of it.
        return Failed(name=f"Failed: {error.place}: {error.what}", message=str(error))


def _self_train(config: SelfTrainConfig) -> dict[str, str]:
    rows: list[str] = []

    def tell(event: Event) -> None:
        if event["stage"] == "evaluate" and event["state"] == "finished":
            rows.append(round_row(event))
            create_markdown_artifact("\n".join([*ROUND_HEAD, *rows]), key="self-train-rounds", description=config.name)
        elif event["stage"] == "filter":
            counts[event["round"]] = event["counts"]

    counts: dict[int, dict[str, Any]] = {}

    def round_row(event: Event) -> str:
        kept = counts[event["round"]]
        dropped = ", ".join(f"{reason} {number}" for reason, number in kept["dropped"].items())
        ap = event["metrics"].get("ap")
        found = f"{kept['kept']} | {kept['quarantined']} | {dropped}"
        return f"| v{event['round']} | {kept['lines']} | {found} | {'' if ap is None else f'{ap:.3f}'} |"

    result = run_rounds(config, tell, tasks.STAGES)
    return {"labels": str(result.rounds[-1].labels), "weights": result.weights, "summary": str(result.summary)}


ROUND_HEAD = (
    "| labels | lines | boxes | quarantined | dropped | AP of the model that made them |",
    "|---|---|---|---|---|---|",
)


@flow(name="bootstrap")
def bootstrap(parameters: BootstrapParameters) -> str:
    """Images with categories or captions become an ODVG file."""
    if parameters.captions is not None:
        return str(tasks.bootstrap_vg(parameters.images, parameters.captions, parameters.out).annotations)
    return str(tasks.bootstrap_od(parameters.images, parameters.categories or [], parameters.out).annotations)


@flow(name="infer", task_runner=ThreadPoolTaskRunner(max_workers=tasks.MAX_DEVICES))
def infer(parameters: InferParameters) -> str:
    """Plans a labelling and does what of it is missing."""
    settings = parameters.model_dump(exclude={"device"})
    manifest = tasks.plan(**settings)
    tasks.infer(manifest, device=parameters.device)
    return str(manifest.work_dir)


@flow(name="filter")
def filter_candidates(parameters: FilterParameters) -> str:
    """Candidates become labels."""
    from flows.filtering import Policy

    return str(tasks.filter_candidates(parameters.work_dir, Policy(**parameters.policy), parameters.out).labels)


@flow(name="merge")
def merge(parameters: MergeParameters) -> str:
    """Pseudo-labels with pretraining data; gives the file that records the mixture."""
    from grounding_model.data import GlyphData, OdvgData

    def data(fields: dict[str, Any]) -> OdvgData | GlyphData:
        if fields.get("kind") == "glyphs":
            return GlyphData(**fields)
        return OdvgData(**{key: Path(value) if key in PATHS else value for key, value in fields.items()})

    tasks.merge(
        data(parameters.pseudo), [data(fields) for fields in parameters.pretraining], parameters.ratio, parameters.out
    )
    return parameters.out


PATHS = ("annotations", "image_root", "label_map")


@flow(name="train")
def train(parameters: ConfigParameters) -> str:
    """One training; gives the checkpoint."""
    from formats.toml_config import read_config
    from grounding_model.train_config import TrainConfig

    return str(tasks.train(read_config(parameters.config, TrainConfig, parameters.overrides)))


@flow(name="evaluate")
def evaluate(parameters: ConfigParameters) -> str:
    """One evaluation; gives its table."""
    from flows.evaluation import evaluate_config

    table = evaluate_config(parameters.config, parameters.overrides)
    create_markdown_artifact(f"```\n{table}\n```", key="evaluation")
    return table


def deployments() -> list[RunnerDeployment]:
    """Everything that is served: self-train/cat, self-train/flickr30k, self-train/glyphs, and each stage alone."""
    made = [
        self_train.to_deployment(
            name,
            parameters={"parameters": {"config": str(Path("configs") / config)}},
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for name, config in CONFIGS.items()
    ]
    stages = (bootstrap, infer, filter_candidates, merge, train, evaluate)
    return made + [stage.to_deployment("stage", entrypoint_type=EntrypointType.MODULE_PATH) for stage in stages]


def up(limit: int = 1) -> int:
    """Serves all deployments until it is interrupted; with a server of its own where none answers."""
    with prefect_server() as api:
        served = deployments()
        print(f"Prefect: {api.removesuffix('/api')}\nIn another terminal, from this folder:")
        for deployment in served[: len(CONFIGS)]:
            print(f"  prefect deployment run {deployment.flow_name}/{deployment.name} --watch")
        sys.stdout.flush()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        serve(*served, limit=limit, pause_on_shutdown=False)
    return 0
