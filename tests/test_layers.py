"""Who may import whom (docs/design.md), and that looking at labels or asking for help stays quick."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "formats": {"formats"},
    "browse": {"browse", "formats"},
    "grounding_model": {"grounding_model", "formats"},
    "flows": {"flows", "grounding_model", "browse", "formats"},
}
ONLY_IMPORTER = {
    "torch": {"grounding_model"},
    "torchvision": {"grounding_model"},
    "timm": {"grounding_model"},
    "transformers": {"grounding_model"},
    "prefect": {"flows"},
    "prefect_ray": {"flows"},
    "ray": {"flows"},
}
FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """The top-level names of all modules that a file imports, wherever in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_hold(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        assert name not in MAY_IMPORT or name in MAY_IMPORT[package], f"{package} must not import {name}"
        assert name not in ONLY_IMPORTER or package in ONLY_IMPORTER[name], f"{package} must not import {name}"


# Who may import whom, room by room; a room may always import itself and formats.io. The page shows the same arrows.
ROOMS = {
    "formats.io": set(),
    "formats": {"formats.io"},
    "browse.images": {"formats"},
    "browse.review": {"browse.images", "formats"},
    "browse": {"browse.images", "browse.review", "formats"},
    "grounding_model.inputs": {"formats"},
    "grounding_model.model": {"grounding_model.inputs"},
    "grounding_model.checkpoints": {"grounding_model.inputs", "grounding_model.model"},
    "grounding_model.students": {
        "formats", "grounding_model.checkpoints", "grounding_model.inputs", "grounding_model.model",
    },
    "grounding_model": {
        "formats", "grounding_model.checkpoints", "grounding_model.inputs", "grounding_model.model",
        "grounding_model.students",
    },
    "grounding_model.metrics": {"formats"},
    "grounding_model.glyphs": {"formats", "grounding_model.inputs"},
    "grounding_model.data": {"formats", "grounding_model.glyphs", "grounding_model.inputs", "grounding_model.model"},
    "grounding_model.training": {
        "formats", "grounding_model", "grounding_model.checkpoints", "grounding_model.data", "grounding_model.glyphs",
        "grounding_model.inputs", "grounding_model.metrics", "grounding_model.model", "grounding_model.students",
    },
    "flows.policies": {"formats"},
    "flows.labelling": {"flows.policies"},
    "flows.reviews": {"flows.labelling"},
    "flows.training": {"flows.labelling"},
    "flows.detection": {"flows.labelling"},
    "flows.evaluation": {"flows.labelling"},
    "flows.audit": {"flows.evaluation", "flows.labelling", "flows.policies"},
    "flows.curation": {"flows.labelling"},
    "flows.distillation": {"flows.evaluation", "flows.labelling", "flows.training"},
    "flows.quality": {"flows.evaluation", "flows.labelling", "flows.policies", "flows.self_training"},
    "flows.self_training": {
        "flows.distillation", "flows.evaluation", "flows.labelling", "flows.policies", "flows.training",
    },
    "flows.orchestration": {
        "flows", "flows.distillation",
        "flows.evaluation", "flows.labelling", "flows.policies", "flows.self_training", "flows.training",
    },
    "flows.cli": {
        "flows", "flows.audit", "flows.curation", "flows.distillation",
        "flows.detection", "flows.evaluation", "flows.labelling", "flows.orchestration", "flows.policies",
        "flows.quality", "flows.reviews", "flows.self_training", "flows.training",
    },
    "flows": {"flows.evaluation", "flows.labelling", "flows.policies", "flows.self_training", "flows.training"},
}  # fmt: skip
MAX_MODULES = 16
ONE_FILE_A_FORMAT = "formats"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The folder directly below a package that a module lives in, or the package."""
    parts = module.split(".")
    is_room = len(parts) > 1 and (ROOT / parts[0] / parts[1]).is_dir()
    return ".".join(parts[:2]) if is_room else parts[0]


def own_imports(path: Path, at_load: bool = False) -> Iterator[str]:
    """Our modules that a file imports; with at_load, only those that run when it is imported."""
    pending: list[ast.AST] = [tree_of(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MAY_IMPORT:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if (ROOT / (inner.replace(".", "/") + ".py")).exists() else str(node.module)
        if at_load and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if at_load and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_between_rooms_hold(path: Path) -> None:
    room = room_of(module_of(path))
    # What the packages of the model and the files may import is the business of `test_arrows_hold`.
    allowed = ROOMS[room] | {room, "formats.io"}
    if path.relative_to(ROOT).parts[0] == "flows":
        allowed |= {name for name in ROOMS if not name.startswith("flows")}
    assert {room_of(name) for name in own_imports(path)} <= allowed


def test_rooms_have_no_circle() -> None:
    done: set[str] = set()
    while ready := {room for room, above in ROOMS.items() if room not in done and above <= done}:
        done |= ready
    assert done == set(ROOMS)


def test_modules_have_no_circle() -> None:
    """Not even through imports inside functions, which hide a circle without breaking it."""
    graph = {module_of(path): set(own_imports(path)) for path in FILES if path.name != "__init__.py"}
    done: set[str] = set()
    while ready := {name for name, uses in graph.items() if name not in done and uses & set(graph) <= done | {name}}:
        done |= ready
    assert set(graph) - done == set()


# Imports inside functions, other than those of the command line: each with its reason. Nothing else may have one.
LAZY = {
    "browse/__main__.py browse": "a window needs OpenCV, pages and files do not",
    "browse/__main__.py main": "reviewing needs a web server, drawing does not",
    "browse/draw.py _font_folder": "matplotlib, for the folder of its fonts alone",
    "flows/labelling/captions.py _captions_csv": "pandas, for captions in CSV alone",
    "flows/labelling/plan.py _with_dtype": "torch, where dtype is auto: other plans need no model",
    "flows/distillation/distill.py check_student": "timm and transformers' detectors, for a loop with a student alone",
    "flows/orchestration/tasks.py task_runner": "optional: groundhog[ray]",
    "flows/audit/estimation.py stratified_interval": "scipy takes longer to import than drawing a sample takes",
    "flows/audit/estimation.py binomial_interval": "the same",
    "formats/huggingface_files.py _columns": "pyarrow, for Parquet alone; every conversion asks for splits",
    "formats/huggingface_files.py _opened": "the same",
    "formats/candidates.py to_frame": "pandas, for notebooks alone",
    "formats/io/plots.py new_figure": "matplotlib takes longer to import than most commands take",
    "formats/io/storage.py as_path": "universal_pathlib, for addresses alone",
    "grounding_model/checkpoints/locations.py locate": "the hub, for its names alone",
    "grounding_model/checkpoints/locations.py locate_backbone": "the hub, for its names alone",
    "grounding_model/inputs/noun_phrases.py _nltk": "NLTK, for noun phrases alone",
    "grounding_model/checkpoints/huggingface.py _their_config": "transformers' configurations, to write its folders",
    "grounding_model/checkpoints/huggingface.py save_tokenizer": "transformers' tokenizers, to write its folders",
    "grounding_model/checkpoints/pretrained_parts.py _quiet": "transformers, for BERT's own weights alone",
    "grounding_model/checkpoints/pretrained_parts.py load_bert": "transformers' BERT, for its own weights alone",
    "grounding_model/detector.py load_detector": "transformers' detectors, for students alone",
    "grounding_model/students/files.py _processor_of": "transformers' detectors, for the student of a run alone",
    "grounding_model/students/files.py _quiet": "transformers, for the student of a run alone",
    "grounding_model/students/files.py load_student": "transformers' detectors, for the student of a run alone",
    "grounding_model/students/network.py _edges": "transformers' D-FINE, for its students alone",
    "grounding_model/training/student_learner.py __init__": "timm and transformers' detectors, for students alone",
    "grounding_model/training/student_learner.py describe_student_memory": "the same",
    "grounding_model/detector.py fast_forward": "optional: Triton, which PyTorch brings for GPUs",
    "formats/images.py _read_heif": "optional: groundhog[heic]",
    "grounding_model/model/backbone.py timm_network": "timm takes a second to import, and Swin needs none",
    "grounding_model/students/export.py check_onnx_installed": "optional: groundhog[onnx]",
    "grounding_model/students/export.py onnx_metadata": "optional: groundhog[onnx]",
    "grounding_model/inputs/tokens.py load_tokenizer": "transformers' tokenizers, for those that are no plain BERT",
    "grounding_model/students/onnx_detector.py __init__": "optional: groundhog[onnx]",
    "grounding_model/training/matcher.py _pairs": "scipy.optimize takes half a second, and only a step needs it",
    "grounding_model/training/log.py _tensorboard": "optional: groundhog[tensorboard]",
}
COMMAND_LINE = "flows/cli/"

# Modules that are imported by a name in a text, which the tests above do not see.
BY_NAME = {
    "browse/__init__.py": "what it exports, on first use",
    "flows/__init__.py": "the same",
    "formats/__init__.py": "the same",
    "grounding_model/__init__.py": "the same",
    "formats/registry.py": "readers and writers, on first use",
    "formats/record.py": "Record.draw in a notebook, the one arrow that points up: drawing stands above the formats",
}


def functions_that_import(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = (each for statement in node.body for each in ast.walk(statement))
            if any(isinstance(each, ast.Import | ast.ImportFrom) for each in inner):
                yield f"{path.relative_to(ROOT).as_posix()} {node.name}"


def test_imports_are_at_the_top_of_a_file() -> None:
    """But at the door of the command line, and where a reason stands above."""
    lazy = {each for path in FILES for each in functions_that_import(path) if not each.startswith(COMMAND_LINE)}
    assert lazy == set(LAZY)


def test_nothing_else_is_imported_by_name() -> None:
    using = (path for path in FILES if "import_module(" in path.read_text(encoding="utf-8"))
    assert {path.relative_to(ROOT).as_posix() for path in using} == set(BY_NAME)


def test_rooms_stay_small() -> None:
    count = Counter(path.parent.relative_to(ROOT) for path in FILES if path.name != "__init__.py")
    crowded = {str(folder): modules for folder, modules in count.items() if modules > MAX_MODULES}
    assert set(crowded) <= {ONE_FILE_A_FORMAT}


def test_every_room_is_in_the_design_page() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert [room for room in ROOMS if f"`{room.replace('.', '/')}/`" not in page] == []


@pytest.mark.parametrize(
    ("command", "forbidden"),
    [
        ("import formats, formats.odvg, formats.candidates", ("torch", "prefect", "transformers")),
        ("import browse, browse.draw", ("torch", "prefect", "transformers", "timm")),
        ("import flows, grounding_model", ("torch", "prefect", "transformers", "timm", "nltk", "pyarrow")),
        (  # help comes at once
            "from flows.cli.command import build_parser; build_parser().format_help()",
            ("torch", "prefect", "transformers", "timm", "numpy", "cv2", "matplotlib", "pyarrow", "nltk", "ray"),
        ),
    ],
)
def test_importing_loads_nothing_heavy(command: str, forbidden: tuple[str, ...]) -> None:
    program = f"import sys; {command}; print([name for name in {forbidden} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


NO_MODEL = ("torch", "transformers", "timm", "prefect", "nltk", "matplotlib", "scipy", "huggingface_hub", "pandas")


LIGHT_COMMANDS = (
    "rounds status nowhere",
    "rounds lineage nowhere/x_od_v1.json",
    "filter {folder}/work_dir",
    "filter {folder}/work_dir --explain 000000.png",
    "check {folder}/data/cats_od_v1.json",
    "stats {folder}/data/cats_od_v1.json",
    "convert odvg coco {folder}/data/cats_od_v1.json {folder}/coco.json",
    "init cats --images docs/images --categories cat --config-dir {folder}",
    "suspects {folder}/data/cats_od_v1.json --work-dir {folder}/work_dir --no-review",
    "audit {folder}/data/cats_od_v1.json --report",
    "agreement {folder}/data/cats_od_v1.json {folder}/data/cats_od_v1.json",
    "evaluate compare {folder} {folder}",
    "select docs/images -n 1 --diverse --out {folder}/chosen_od.json",
    "publish {folder}/data/cats_od_v1.json {folder}/published --images docs/images",
    "browse {folder} data/cats_od_v1.json images -o {folder}/drawn --not-show",
    "weights list",
)


def test_commands_that_run_no_model_load_none(tmp_path: Path) -> None:
    """One process runs them all: the first that loads something is named."""
    shutil.copytree(ROOT / "tests/kept/labelling", tmp_path, dirs_exist_ok=True)
    program = (
        "import sys; from flows.cli.command import main\n"
        f"for command in {[command.format(folder=tmp_path) for command in LIGHT_COMMANDS]}:\n"
        "    main(command.split())\n"
        f"    loaded = [name for name in {NO_MODEL} if name in sys.modules]\n"
        "    assert not loaded, (command, loaded)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# What every module of its kind has, or what is one thing with several faces: a function, its task and its deployment.
SHARED_FUNCTIONS = {
    *("add", "add_options", "build_parser", "main"),
    *("distill", "evaluate", "filter_candidates", "infer", "label_shards", "merge", "plan", "self_train", "train"),
}


def public_names(kind: type | tuple[type, ...]) -> Counter[str]:
    """Name -> the modules that define it at their top level."""
    places = {
        (node.name, path)
        for path in FILES
        for node in tree_of(path).body
        if isinstance(node, kind) and not node.name.startswith("_")
    }
    return Counter(name for name, _ in places)


def test_a_class_has_its_name_for_itself() -> None:
    assert [name for name, count in public_names(ast.ClassDef).items() if count > 1] == []


def test_a_public_function_has_its_name_for_itself() -> None:
    shared = {name for name, count in public_names(ast.FunctionDef).items() if count > 1}
    assert shared == SHARED_FUNCTIONS
