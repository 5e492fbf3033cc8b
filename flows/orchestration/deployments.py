"""The flows, and the deployments that `groundhog up` serves."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from prefect import flow, serve
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.states import Completed, Failed
from pydantic import BaseModel, ConfigDict
from pydantic.dataclasses import dataclass

from flows.distillation.config import DistillConfig
from flows.evaluation.evaluate import evaluate_config
from flows.labelling.settings import Execution, LabellingSettings, Workers, settings_part
from flows.orchestration import log_filters, tasks
from flows.orchestration.artifacts import PrefectReporter
from flows.orchestration.lifetime import ENDS_WITH_UP, UP_PROCESS, crash_orphans
from flows.orchestration.pause import wait_in_flow
from flows.orchestration.server import PASSWORD_FILE, PASSWORD_KEY, prefect_server
from flows.policies.policy import Policy
from flows.self_training.config import read_self_train
from flows.self_training.init import CONFIG_DIR, PREFIX
from flows.self_training.loop import self_train as run_rounds
from formats.io.errors import InputError
from formats.io.toml_config import read_config
from grounding_model.data.sources import GlyphData, OdvgData
from grounding_model.training.config import TrainConfig

log_filters.install()  # every flow run is a process that imports this module


DISTILL_PREFIX = "distill_"  # of a configuration's file name


class Parameters(BaseModel):
    """Base of the parameters of flows; refuses misspelt names."""

    model_config = ConfigDict(extra="forbid")


class SelfTrainParameters(Parameters):
    """config: a TOML file, relative to where `groundhog up` runs. overrides: such as "rounds=2"."""

    config: str
    overrides: list[str] = []

    @property
    def title(self) -> str:
        """The name of its deployment: glyphs for configs/self_train_glyphs.toml."""
        return Path(self.config).stem.removeprefix(PREFIX)


class BootstrapParameters(Parameters):
    """Either categories or captions. phrases: a JSON file, caption -> phrases to detect."""

    images: str
    out: str | None = None
    categories: list[str] | None = None
    captions: str | None = None
    phrases: str | None = None
    overwrite: bool = False


@dataclass(config=Parameters.model_config, frozen=True, kw_only=True)
class PlanParameters(LabellingSettings):
    """The parameters of flows.plan."""

    source: str
    image_root: str
    work_dir: str | None = None
    label_map: str | None = None
    shard_size: int = Execution.shard_size
    overwrite: bool = Execution.overwrite


@dataclass(config=Parameters.model_config, frozen=True, kw_only=True)
class InferParameters(Workers):
    """work_dir: that of the plan."""

    work_dir: str
    batch_size: int = Execution.batch_size


class FilterParameters(Parameters):
    """work_dir: that of infer. views: work_dirs of further views of the images. policy: settings of flows.Policy."""

    work_dir: str
    out: str | None = None
    policy: dict[str, Any] = {}
    views: list[str] = []
    reviewed: str | None = None
    provenance: dict[str, Any] | None = None
    overwrite: bool = False


class MergeParameters(Parameters):
    """Fields of OdvgData (pseudo) and of OdvgData or GlyphData, distinguished by `kind` (pretraining)."""

    pseudo: dict[str, Any]
    pretraining: list[dict[str, Any]] = []
    ratio: float = 1.0
    out: str


class ConfigParameters(Parameters):
    """config: a TOML file of `groundhog train`, `groundhog evaluate` or `groundhog distill`."""

    config: str
    overrides: list[str] = []

    @property
    def title(self) -> str:
        """coco for configs/evaluate_coco.toml."""
        return Path(self.config).stem.removeprefix("evaluate_").removeprefix(DISTILL_PREFIX)


def _flow(name: str, titled: str) -> Callable[[Callable[..., Any]], Any]:
    """Makes a flow that ends with `groundhog up`. titled: the parameter after which its runs are named."""

    def decorate(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def run(parameters: Any) -> Any:
            try:
                return function(parameters)
            except InputError as error:
                # `prefect deployment run --watch` shows only the name of a state.
                return Failed(name=f"Failed: {error}", message=str(error), data=error)

        return flow(name=name, flow_run_name=f"{name} {{parameters.{titled}}}", on_running=ENDS_WITH_UP)(run)

    return decorate


@_flow("self-train", titled="title")
def self_train(parameters: SelfTrainParameters) -> dict[str, str] | State:
    """Runs the rounds of a configuration: label, train, label again. Returns the best labels and weights.

    The state of the run is Completed, Stopped (by the gate) or Waiting (for a person), with the reason.
    """
    config = read_self_train(parameters.config, tuple(parameters.overrides))
    result = run_rounds(config, PrefectReporter(config.name), tasks.STAGES, wait_in_flow)
    outcome = {"labels": str(result.best.labels), "weights": result.weights, "summary": str(result.summary)}
    if result.state == "finished":
        return outcome
    # Prefect lists runs with the name of their state; "Completed" would hide that a person has to decide.
    return Completed(name=result.state.capitalize(), message=result.reason, data=outcome)


@_flow("bootstrap", titled="images")
def bootstrap(parameters: BootstrapParameters) -> str:
    """Writes an ODVG file of images with categories or captions; returns its path."""
    if parameters.captions is not None:
        made = tasks.bootstrap_vg(
            parameters.images, parameters.captions, parameters.out, parameters.phrases, overwrite=parameters.overwrite
        )
    else:
        made = tasks.bootstrap_od(
            parameters.images, parameters.categories or [], parameters.out, overwrite=parameters.overwrite
        )
    return str(made.annotations)


@_flow("plan", titled="source")
def plan(parameters: PlanParameters) -> str:
    """Splits an ODVG file into shards for one model; returns the work_dir."""
    return str(
        tasks.plan(
            parameters.source,
            parameters.image_root,
            work_dir=parameters.work_dir,
            label_map=parameters.label_map,
            settings=settings_part(parameters, LabellingSettings),
            execution=Execution(shard_size=parameters.shard_size, overwrite=parameters.overwrite),
        ).work_dir
    )


@_flow("infer", titled="work_dir")
def infer(parameters: InferParameters) -> str:
    """Labels the missing shards of a plan; returns the work_dir."""
    workers = settings_part(parameters, Workers)
    tasks.infer(parameters.work_dir, workers=workers, batch_size=parameters.batch_size)
    return parameters.work_dir


@_flow("filter", titled="work_dir")
def filter_candidates(parameters: FilterParameters) -> str:
    """Turns candidates into labels; returns the label file."""
    return str(
        tasks.filter_candidates(
            parameters.work_dir,
            Policy(**parameters.policy),
            parameters.out,
            views=parameters.views,
            reviewed=parameters.reviewed,
            provenance=parameters.provenance,
            overwrite=parameters.overwrite,
        ).labels
    )


@_flow("merge", titled="out")
def merge(parameters: MergeParameters) -> str:
    """Mixes pseudo-labels with pretraining data; returns the file that records the mixture."""

    def data(fields: dict[str, Any]) -> OdvgData | GlyphData:
        if fields.get("kind") == "glyphs":
            return GlyphData(**fields)
        paths = {name: Path(fields[name]) for name in PATHS if fields.get(name) is not None}
        return OdvgData(**{**fields, **paths})

    tasks.merge(
        data(parameters.pseudo), [data(fields) for fields in parameters.pretraining], parameters.ratio, parameters.out
    )
    return parameters.out


PATHS = ("annotations", "image_root", "label_map")


@_flow("train", titled="title")
def train(parameters: ConfigParameters) -> str:
    """Runs a training; returns the checkpoint."""
    return str(tasks.train(read_config(parameters.config, TrainConfig, parameters.overrides)))


@_flow("evaluate", titled="title")
def evaluate(parameters: ConfigParameters) -> str:
    """Runs an evaluation; returns its table."""
    table = evaluate_config(parameters.config, parameters.overrides)
    create_markdown_artifact(f"```\n{table}\n```", key="evaluation")
    return table


@_flow("distill", titled="title")
def distill(parameters: ConfigParameters) -> str:
    """Trains a student; returns its folder. The comparison with its teacher is an artifact."""
    result = tasks.distill(read_config(parameters.config, DistillConfig, parameters.overrides))
    create_markdown_artifact(result.table, key="student")
    return str(result.student)


def deployments() -> list[RunnerDeployment]:
    """All deployments: self-train/NAME and distill/NAME for their configurations, and each single stage."""
    made = [
        self_train.to_deployment(
            name,
            parameters={"parameters": {"config": str(config)}},
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for name, config in configs().items()
    ]
    made += [
        distill.to_deployment(
            path.stem.removeprefix(DISTILL_PREFIX),
            parameters={"parameters": {"config": str(path)}},
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for path in sorted(CONFIG_DIR.glob(f"{DISTILL_PREFIX}*.toml"))
    ]
    stages = (bootstrap, plan, infer, filter_candidates, merge, train, evaluate)
    made += [stage.to_deployment("stage", entrypoint_type=EntrypointType.MODULE_PATH) for stage in stages]
    return cast(list[RunnerDeployment], made)  # outside of an event loop they are not coroutines


def configs() -> dict[str, Path]:
    """Name of a self-train deployment -> its configuration, for every configs/self_train_NAME.toml of this folder."""
    return {path.stem.removeprefix(PREFIX): path for path in sorted(CONFIG_DIR.glob(f"{PREFIX}*.toml"))}


def up(limit: int = 1) -> int:
    """Serves all deployments until it is interrupted; starts a Prefect server if none is running.

    Raises InputError in a folder without configurations.
    """
    if not configs():
        remedy = "run `groundhog up` in a clone's folder, or `groundhog init` here first"
        raise InputError(CONFIG_DIR.resolve(), f"contains no {PREFIX}*.toml", remedy)
    with prefect_server() as api:
        served = deployments()
        print(f"Prefect: {api.removesuffix('/api')}")
        if secret := os.environ.get(PASSWORD_KEY):
            print(f"Password for its page (stored in {PASSWORD_FILE} in this folder): {secret}")
        print("In another terminal, from this folder:")
        for deployment in served[: len(configs())]:
            print(f"  prefect deployment run {deployment.flow_name}/{deployment.name} --watch")
        sys.stdout.flush()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ[UP_PROCESS] = str(os.getpid())
        # Prefect's handler of SIGTERM stops its runner by a coroutine that is no longer awaited.
        warnings.filterwarnings("ignore", r"coroutine 'Runner\.astop' was never awaited", RuntimeWarning)
        ids = [served_deployment.apply() for served_deployment in served]
        for name in crash_orphans(ids):
            print(f"{name}: its process no longer exists; marked as Crashed. Run it again to resume")
        sys.stdout.flush()
        serve(*served, limit=limit, pause_on_shutdown=False)
    return 0
