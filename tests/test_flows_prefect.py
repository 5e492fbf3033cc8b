"""The Prefect shells: deployments, strict parameters, and the loop as a flow with mapped shards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness
from pydantic import TypeAdapter, ValidationError

from flows.distillation.config import DistillConfig
from flows.labelling import detector_pool as workers
from flows.labelling.detector_pool import LocalDetectorPool
from flows.labelling.filter import filter_candidates
from flows.labelling.plan import plan
from flows.labelling.settings import LabellingSettings, settings_part
from flows.labelling.shards import missing_shards
from flows.orchestration import deployments, tasks
from flows.orchestration.server import is_healthy
from flows.self_training.stages import RunName
from formats.io.errors import InputError
from formats.io.toml_config import write_config
from formats.label_map import write_label_map
from grounding_model.detector import load_detector
from grounding_model.students.config import FromStudent
from grounding_model.training.config import TrainConfig
from tests.pipeline_cases import FakeDetector, make_images, make_weights
from tests.test_self_train import Recorder, config  # noqa: F401 - the fixture
from tests.training_data import write_rectangles

ROOT = Path(__file__).parent.parent


def test_parameters_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="overides"):
        deployments.SelfTrainParameters(config="x.toml", overides=[])


def test_every_config_is_served_and_every_stage() -> None:
    served = {f"{made.flow_name}/{made.name}" for made in deployments.deployments()}
    assert {"self-train/cat", "self-train/flickr30k", "self-train/glyphs", "distill/raccoon"} <= served
    assert {
        f"{stage}/stage" for stage in ("bootstrap", "plan", "infer", "filter", "merge", "train", "evaluate")
    } <= served


def test_what_a_stage_takes_its_deployment_takes() -> None:
    renamed = {"manifest": "work_dir"}
    taken = {renamed.get(name, name) for name in signature(filter_candidates).parameters}
    assert taken == set(deployments.FilterParameters.model_fields)
    settings = {each.name for each in fields(LabellingSettings)} | {"shard_size", "overwrite"}
    taken = set(signature(plan).parameters) - {"settings", "execution", "changes"} | settings
    assert taken == {each.name for each in fields(deployments.PlanParameters)}


def test_a_misspelt_setting_of_a_plan_is_refused() -> None:
    given = {"source": "x_od.json", "image_root": "images", "score_floor": 0.1, "scale": [192, 192]}
    read = TypeAdapter(deployments.PlanParameters).validate_python
    assert settings_part(read(given), LabellingSettings) == LabellingSettings(score_floor=0.1, scale=(192, 192))
    with pytest.raises(ValidationError, match="mirored"):
        read(given | {"mirored": True})


def test_one_model_is_loaded_for_all_shards_of_a_plan() -> None:
    loaded = []
    pool = LocalDetectorPool(["cpu"], lambda manifest, device: loaded.append(device) or FakeDetector())
    manifest = SimpleNamespace(weights_sha256="a", text_encoder_sha256=None, dtype="float32")
    for _ in range(3):
        with pool.acquire(manifest):
            pass
    assert loaded == ["cpu"]
    for weights, text_encoder, dtype in (("b", None, "float32"), ("b", "c", "float32"), ("b", "c", "bfloat16")):
        with pool.acquire(SimpleNamespace(weights_sha256=weights, text_encoder_sha256=text_encoder, dtype=dtype)):
            pass
    assert loaded == ["cpu"] * 4


def hold(monkeypatch: pytest.MonkeyPatch, detector: FakeDetector) -> None:
    """The detector that stands for every model."""
    made = lambda devices: LocalDetectorPool(devices, lambda manifest, device: detector)  # noqa: E731
    monkeypatch.setattr(workers, "LocalDetectorPool", made)


@pytest.mark.parametrize(("count", "most"), [(0, 4), (3, 4), (4, 4), (5, 4), (20_000, tasks.MAX_TASKS)])
def test_shards_are_grouped_so_that_prefect_sees_few_tasks(count: int, most: int) -> None:
    groups = tasks.grouped(range(count), most)
    assert [index for group in groups for index in group] == list(range(count))
    assert len(groups) == min(count, most)
    assert not groups or max(map(len, groups)) - min(map(len, groups)) <= 1


@pytest.mark.parametrize(
    ("flow", "parameters", "name"),
    [
        (
            deployments.self_train,
            deployments.SelfTrainParameters(config="configs/self_train_cat.toml"),
            "self-train cat",
        ),
        (deployments.bootstrap, deployments.BootstrapParameters(images="data/cat/images"), "bootstrap data/cat/images"),
        (deployments.plan, deployments.PlanParameters(source="x_od.json", image_root="images"), "plan x_od.json"),
        (deployments.infer, deployments.InferParameters(work_dir="work_dirs/cat"), "infer work_dirs/cat"),
        (deployments.filter_candidates, deployments.FilterParameters(work_dir="work_dirs/cat"), "filter work_dirs/cat"),
        (deployments.merge, deployments.MergeParameters(pseudo={}, out="mixed.json"), "merge mixed.json"),
        (deployments.train, deployments.ConfigParameters(config="configs/finetune_cat.toml"), "train finetune_cat"),
        (deployments.evaluate, deployments.ConfigParameters(config="configs/evaluate_coco.toml"), "evaluate coco"),
    ],
)
def test_a_flow_run_is_named_by_what_it_works_on(flow, parameters: deployments.Parameters, name: str) -> None:
    assert flow.flow_run_name.format(parameters=parameters) == name


@pytest.mark.parametrize(
    ("run", "indices", "name"),
    [
        (RunName(), [4], "label shard 4"),
        (RunName(2), [4, 5, 6], "label v2, shards 4-6"),
        (RunName(12, 1), [0, 3], "label v12, view 1, shards 0-3"),
    ],
)
def test_a_group_of_shards_is_named_by_its_round_and_range(run: RunName, indices: list[int], name: str) -> None:
    assert tasks.title_of_group(run, indices) == name


def test_a_stage_is_named_by_the_round_that_it_is_called_for() -> None:
    stages = tasks.STAGES.run_as(RunName(3, 1))
    tasks_of_round = (stages.plan, stages.filter_candidates, stages.merge, stages.train, stages.evaluate)
    assert [stage.task_run_name for stage in tasks_of_round] == [
        f"{name} v3, view 1" for name in ("plan", "filter_candidates", "merge", "train", "evaluate")
    ]
    assert stages.infer.keywords == {"name": RunName(3, 1)}
    assert tasks.plan.task_run_name == "plan"  # the shell itself belongs to no round


@pytest.fixture(scope="module")
def harness() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.mark.slow
def test_the_flow_labels_by_mapped_shards(
    harness: None,
    config,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder()
    hold(monkeypatch, recorder.detector)
    stages = recorder.stages()._replace(
        infer=tasks.infer, plan=tasks.plan, filter_candidates=tasks.filter_candidates, named=tasks.named
    )
    monkeypatch.setattr(tasks, "STAGES", stages)
    labelling = replace(config.labelling, shard_size=2)
    monkeypatch.setattr(deployments, "read_self_train", lambda path, overrides: replace(config, labelling=labelling))
    result = deployments.self_train(deployments.SelfTrainParameters(config="configs/self_train_x.toml"))
    assert result["labels"].endswith("x_od_v3.json")
    assert recorder.detector.seen == 15
    assert not workers._pools  # the models of the labelling are gone before the training
    with get_client(sync_client=True) as client:
        assert "self-train x" in [run.name for run in client.read_flow_runs()]
        labelled = {
            f"label v{number}, {shards}" for number in (1, 2, 3) for shards in ("shard 0", "shard 1", "shard 2")
        }
        others = {f"{stage} v{number}" for number in (1, 2, 3) for stage in ("plan", "filter_candidates")}
        # The server hears of task runs by events, in its own time.
        task_names = lambda: {run.name for run in client.read_task_runs()}  # noqa: E731
        wait_until(lambda: task_names() >= labelled | others, "task runs without a name that can be read", seconds=60)


@pytest.mark.slow
def test_the_flow_of_a_student_leaves_its_table_as_an_artifact(harness: None, tmp_path: Path) -> None:
    data, _ = write_rectangles(tmp_path)
    write_label_map(tmp_path / "map.json", dict(enumerate(("red", "green", "blue"))))
    settings = DistillConfig(
        data.annotations,
        data.image_root,
        label_map=tmp_path / "map.json",
        train=TrainConfig(
            tmp_path / "work", start=FromStudent("glyph-student", image_size=64), steps=1, batch_size=2, device="cpu"
        ),
        onnx=False,
    )
    write_config(tmp_path / "distill_shapes.toml", settings)
    parameters = deployments.ConfigParameters(config=str(tmp_path / "distill_shapes.toml"), overrides=["trust='none'"])
    folder = deployments.distill(parameters)
    assert load_detector(folder).student.names == ("red", "green", "blue")
    with get_client(sync_client=True) as client:
        (run,) = [run for run in client.read_flow_runs() if run.name == "distill shapes"]
        (table,) = [each for each in client.read_artifacts() if each.key == "student" and each.flow_run_id == run.id]
        assert "| student, PyTorch |" in table.data
        named = lambda: {task.name for task in client.read_task_runs() if task.flow_run_id == run.id}  # noqa: E731
        wait_until(lambda: named() == {"distill"}, "no task run", seconds=60)


@pytest.mark.slow
def test_images_in_a_folder_named_like_a_round_do_not_name_a_run(
    harness: None,
    tmp_path: Path,
    config,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_images(tmp_path / "round-7" / "view-2", 2)
    data = replace(config.data, images=tmp_path / "round-7" / "view-2", annotations=tmp_path / "round-7" / "x_od.json")
    recorder = Recorder()
    hold(monkeypatch, recorder.detector)
    stages = recorder.stages()._replace(
        infer=tasks.infer, plan=tasks.plan, filter_candidates=tasks.filter_candidates, named=tasks.named
    )
    monkeypatch.setattr(tasks, "STAGES", stages)
    monkeypatch.setattr(
        deployments, "read_self_train", lambda path, overrides: replace(config, data=data, rounds=0, name="seventh")
    )
    deployments.self_train(deployments.SelfTrainParameters(config="configs/self_train_seventh.toml"))
    with get_client(sync_client=True) as client:
        (run,) = [run for run in client.read_flow_runs() if run.name == "self-train seventh"]
        mine = lambda: {task.name for task in client.read_task_runs() if task.flow_run_id == run.id}  # noqa: E731
        expected = {"plan v1", "label v1, shard 0", "filter_candidates v1"}
        wait_until(lambda: mine() >= expected, "no task runs of round 1", seconds=60)
        assert not [name for name in mine() if "v7" in name or "view" in name]


@pytest.mark.slow
def test_a_failed_shard_fails_the_stage_and_leaves_the_others_done(
    harness: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "images", 4)
    weights = make_weights(tmp_path)
    (tmp_path / "x_od.json").write_text(
        "".join(f'{{"filename": "image-{index:03d}.png", "height": 30, "width": 40}}\n' for index in range(4))
    )
    (tmp_path / "x_label_map.json").write_text('{"0": "cat"}')

    class Stumbling(FakeDetector):
        def predict_each(self, images, prompt, **settings):
            if any("image-002" in str(image) for image in images):
                raise RuntimeError("out of memory")
            return super().predict_each(images, prompt, **settings)

    hold(monkeypatch, Stumbling())
    manifest = plan(
        tmp_path / "x_od.json",
        tmp_path / "images",
        weights,
        tmp_path / "work",
        label_map=tmp_path / "x_label_map.json",
        shard_size=1,
    )
    parameters = deployments.InferParameters(work_dir=str(tmp_path / "work"))
    monkeypatch.setattr(tasks.label_shards, "retries", 0)
    with pytest.raises(RuntimeError, match="1 of 4 shards failed"):
        deployments.infer(parameters)
    assert missing_shards(manifest) == [2]
    monkeypatch.setattr(tasks, "MAX_TASKS", 1)  # a group goes on behind a shard that failed
    for path in manifest.work_dir.glob("candidates/*"):
        path.unlink()
    with pytest.raises(RuntimeError, match="1 of 4 shards failed"):
        deployments.infer(parameters)
    assert missing_shards(manifest) == [2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        (deployments.infer, deployments.InferParameters(work_dir="nowhere")),
        (deployments.train, deployments.ConfigParameters(config="nowhere")),
    ],
)
def test_bad_input_is_in_the_state_and_raised_to_the_caller(harness: None, flow, parameters) -> None:
    with pytest.raises(InputError, match="nowhere"):
        flow(parameters)
    assert flow(parameters, return_state=True).name.startswith("Failed: nowhere: ")


def test_outside_a_clone_up_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deployments, "prefect_server", lambda: pytest.fail("a server was started"))
    with pytest.raises(InputError, match=r"configs.*in a clone"):
        deployments.up()


def test_a_proxy_is_not_used_for_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert is_healthy(f"http://127.0.0.1:{server.server_port}/api")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_a_server_of_ours_dies_with_us_however_we_end(tmp_path: Path) -> None:
    api = "http://127.0.0.1:42917/api"
    program = "import sys, time\nfrom flows.orchestration.server import prefect_server\n"
    program += "with prefect_server(sys.argv[1]):\n    print('up', flush=True)\n    time.sleep(600)"
    environment = os.environ | {"PREFECT_HOME": str(tmp_path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", program, api], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline().strip() == "up"
    assert is_healthy(api)
    (server,) = psutil.Process(owner.pid).children()
    second = subprocess.Popen(
        [sys.executable, "-c", program, api], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert second.stdout is not None
    assert second.stdout.readline().strip() == "up"
    assert psutil.Process(second.pid).children() == []  # it talks to the server that is there
    second.kill()
    second.wait()
    assert is_healthy(api)
    server.kill()
    server.wait()
    wait_until(lambda: is_healthy(api), "no server took the place of the killed one", seconds=120)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_until(lambda: not is_healthy(api), "the server outlived its owner", seconds=20)


def wait_until(holds: Callable[[], bool], otherwise: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="parents are not followed there")
def test_a_run_ends_with_the_up_that_started_it() -> None:
    run = "import time; from types import SimpleNamespace as Run\n"
    run += "from flows.orchestration.lifetime import end_with_up; end_with_up(None, Run(id=None), None)\n"
    run += "print('running', flush=True); time.sleep(600)"
    up = "import os, subprocess, sys; from flows.orchestration.lifetime import UP_PROCESS\n"
    up += "os.environ[UP_PROCESS] = str(os.getpid())\n"
    up += "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); print(child.pid, flush=True); child.wait()"
    parent = subprocess.Popen([sys.executable, "-c", up, run], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "running\n"
    parent.kill()
    parent.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "an orphan", seconds=20)


@pytest.mark.slow
@pytest.mark.parametrize(("state", "name"), [("stopped", "Stopped"), ("waiting", "Waiting"), ("finished", "Completed")])
def test_a_run_says_why_it_did_not_finish(
    harness: None, monkeypatch: pytest.MonkeyPatch, state: str, name: str
) -> None:
    result = SimpleNamespace(
        best=SimpleNamespace(labels="x_od_v1.json"), weights="w", summary="s", state=state, reason="why"
    )
    monkeypatch.setattr(deployments, "read_self_train", lambda *_: SimpleNamespace(name="x"))
    monkeypatch.setattr(deployments, "run_rounds", lambda *_: result)
    ended = deployments.self_train(deployments.SelfTrainParameters(config="x.toml"), return_state=True)
    assert (ended.type.value, ended.name) == ("COMPLETED", name)
    assert state == "finished" or ended.message == "why"
