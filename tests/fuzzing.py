"""Mutations of valid samples, of their bytes and of their structure, and every reader with a sample of its own.

A mutation is plain data, (kind, where, what), so that hypothesis can draw, shrink and print it.
"""

from __future__ import annotations

import copy
import json
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from browse.review.order import read_order, read_thresholds
from flows.detection.download import fetch
from flows.evaluation.evaluate import EvaluateConfig
from flows.labelling.captions import read_captions, read_phrases
from flows.labelling.manifest import read_manifest
from flows.orchestration.server import password
from flows.quality.ablation import QualityConfig
from flows.self_training.config import SelfTrainConfig
from flows.self_training.state import read_loop_state
from formats import CATEGORIES, READERS, InputError, Omissions, read_lvis_details
from formats.candidates import Candidates, ImageProblem, candidates_key, read_candidates, write_candidates
from formats.convert import call, guess_format
from formats.dod import read_dod_details
from formats.huggingface import read_huggingface, read_huggingface_categories, save_images
from formats.inspect import check, statistics
from formats.io.plain_pickle import read_plain_pickle
from formats.io.toml_config import read_config
from formats.label_map import keypoint_shape, name_problems, read_category_names, read_label_map
from formats.reviewed import corrections_for
from grounding_model.checkpoints.locations import EMBEDDED
from grounding_model.checkpoints.weights import build_model, read_weights
from grounding_model.inputs.image import read_image
from grounding_model.inputs.prompt import Prompt
from grounding_model.inputs.tokens import load_tokenizer, tokenize, tokenizer_from_text
from grounding_model.training.config import TrainConfig
from tests.format_samples import SAMPLES, write_hub_table
from tests.paths import GOLDEN

ROOT = Path(__file__).parent.parent

SECONDS = 5.0  # for one small file; the slowest reader of a valid sample takes a tenth of a second
PATIENCE = 6
BYTES = 2 << 30  # of address space beyond what the process has

Mutation = tuple[int, int, int]  # kind, where, what: each is taken modulo what there is


class Target(NamedTuple):
    """make: writes a valid sample into an empty folder. read: reads all of it. files: pattern of what is mutated."""

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    files: str = "*"


# --- mutations

_DEEP, _DEEPER, _DEEPEST, _DIGITS = "@@150 deep@@", "@@900 deep@@", "@@100,000 deep@@", "@@digits@@"
_AS_TEXT = {_DEEP: "[" * 150 + "]" * 150, _DEEPER: '{"a":' * 900 + "1" + "}" * 900, _DIGITS: "7" * 5_000}
_AS_TEXT |= {_DEEPEST: "[" * 100_000 + "]" * 100_000}
ODD_JSON: list[Any] = [None, True, False, 0, -1, 7, 1.5, -0.0, 10**30, -(10**400), 2**63, 1e308, float("nan")]
ODD_JSON += [float("inf"), "", " ", "\x00", "\ud800", "../x", "/etc/x", "a" * 5_000, "0", "nan", "é", "[UNK]", "://"]
ODD_JSON += [
    [],
    {},
    [[]],
    [None],
    {"": None},
    [1, 2, 3, 4],
    [0, 0],
    [[0, 5]],
    {"id": 1},
    _DEEP,
    _DEEPER,
    _DEEPEST,
    _DIGITS,
]
ODD_BYTES = [b"", b"\x00", b"\xff\xfe", b"NaN", b"-1", b"1e999", b"9" * 400, b"null", b"[]", b"{}", b'""', b"true"]
ODD_BYTES += [b'"', b"'", b"[", b"}", b"<", b">", b"&", b",", b" ", b"\t", b"\r", b"\n", b"-0.5", b"\xe2\x80\xa8"]
ODD_BYTES += [
    b"../",
    b"/",
    b"C:\\",
    b"%00",
    b"[" * 5_000,
    b"a" * 5_000,
    b"7" * 5_000,
    b"&a;",
    b":",
    b"=",
    b"#",
    b"\xc3",
]
ODD_BYTES += [
    b"/EN#1",
    b"/a" * 3_000,
    b"1979-05-27",
    b"inf",
    b"!!python/object:x",
    b"*a",
    b"{a: " * 2_000,
    b"- " * 2_000,
]


def mutate(path: Path, mutation: Mutation) -> None:
    """One step: the structure of what can be parsed, else the bytes."""
    kind, where, what = mutation
    content = path.read_bytes()
    if kind % 3 and (changed := _structure(path, content, kind // 3, where, what)) is not None:
        path.write_bytes(changed)
    else:
        path.write_bytes(_bytes(content, kind // 3, where, what))


def _bytes(content: bytes, kind: int, where: int, what: int) -> bytes:
    start, odd = where % (len(content) + 1), ODD_BYTES[what % len(ODD_BYTES)]
    match kind % 6:
        case 0:
            return content[:start]
        case 1:
            return content[:start] + odd + content[start:]
        case 2:
            words = [word for word in content.replace(b'"', b" ").replace(b",", b" ").split() if len(word) < 200]
            return content.replace(words[where % len(words)], odd, 1 if what % 2 else -1) if words else odd
        case 3:
            return content[:start] + content[start : start + what % 40] + content[start:]
        case 4:
            return content[:start] + content[start + what % 40 :]
    return content[:start] + bytes(each ^ (1 << what % 8) for each in content[start : start + 1]) + content[start + 1 :]


def _structure(path: Path, content: bytes, kind: int, where: int, what: int) -> bytes | None:
    # What was mutated before may be no JSON, XML or Parquet any more, or have nothing left to change.
    with suppress(ValueError, SyntaxError, RecursionError, OSError, LookupError, ZeroDivisionError, pa.ArrowException):
        match path.suffix:
            case ".json" | ".jsonl":
                return _json(content, kind, where, what)
            case ".xml":
                return _xml(content, kind, where, what)
            case ".parquet":
                return _parquet(path, kind, where, what)
            case ".safetensors":
                length = int.from_bytes(content[:8], "little")
                header = _json(content[8 : 8 + length], kind, where, what)
                return len(header).to_bytes(8, "little") + header + content[8 + length :]
            case ".toml":
                return _lines(content, kind, where, what, b" = ", ODD_TOML)
            case ".txt" | ".yaml" | ".csv" | ".env" | ".url":
                return _lines(content, kind, where, what, b"", ODD_BYTES)
    return None


def _json(content: bytes, kind: int, where: int, what: int) -> bytes:
    text = content.decode("utf-8-sig")
    try:
        root = [json.loads(text)]
        join = ""
    except ValueError:
        root, join = [json.loads(line) for line in text.splitlines() if line.strip()], "\n"
    holders = list(_holders(root))
    holder, key = holders[where % len(holders)]
    odd = copy.deepcopy(ODD_JSON[what % len(ODD_JSON)])
    match kind % 7:
        case 0 | 1 | 2:
            holder[key] = odd
        case 3:
            del holder[key]
        case 4:
            holder[key] = [holder[key]]
        case 5 if isinstance(holder, dict):
            holder[str(odd)[:50]] = holder.pop(key)
        case 6 if isinstance(holder, list):
            holder.extend(copy.deepcopy([holder[key]] * (1 + what % 3)))
        case _:
            holder[key] = {"x": holder[key]}
    text = join.join(json.dumps(each) for each in root)
    for placeholder, written in _AS_TEXT.items():
        text = text.replace(f'"{placeholder}"', written)
    return text.encode()


def _holders(root: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value below."""
    todo = [root]
    while todo:
        holder = todo.pop()
        for key, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            yield holder, key
            if isinstance(value, dict | list):
                todo.append(value)


def _xml(content: bytes, kind: int, where: int, what: int) -> bytes:
    root = ElementTree.fromstring(content)
    parents = {child: parent for parent in root.iter() for child in parent}
    elements = list(root.iter())
    element, odd = elements[where % len(elements)], ODD_XML[what % len(ODD_XML)]
    match kind % 7:
        case 0 | 1:
            element.text = odd
        case 2 if element in parents:
            parents[element].remove(element)
        case 3 if element in parents:
            parents[element].append(copy.deepcopy(element))
        case 4 if element.attrib:
            element.set(sorted(element.attrib)[what % len(element.attrib)], odd)
        case 5:
            element.tag = ["box", "object", "image", "name", "size", "bndbox", "mask", "ellipse"][what % 8]
        case _:
            for _ in range([1, 5, 3_000][what % 3]):
                inner = ElementTree.SubElement(element, element.tag)
                element = inner
    return ElementTree.tostring(root)


ODD_XML = ["", " ", "-1", "0", "nan", "inf", "1e999", "9" * 400, "7" * 5_000, "é", "../x", "/etc/x", "a" * 5_000, "1,2"]
ODD_XML += ["1,2;3", ";", ",", "C:\\a.jpg", "..", "\t", "1_000", "٣", "90", "background"]
ODD_TOML = [b"nan", b"inf", b"-1", b"0", b"1e999", b"7" * 5_000, b"10" * 100, b"[]", b"{}", b'""', b"true", b"[[]]"]
ODD_TOML += [
    b"[" * 3_000 + b"]" * 3_000,
    b"1979-05-27",
    b'"x"',
    b'"\\u0000"',
    b"{kind = 1}",
    b"[1, 2]",
    b'["x"]',
    b"-0.5",
]
ODD_TOML += [b"{a = 1}", b"1e30", b"0.0", b"9223372036854775808", b'"~/x"', b'"../../evil"', b"{" + b"a = {" * 900]


def _lines(content: bytes, kind: int, where: int, what: int, sign: bytes, odd: Sequence[bytes]) -> bytes:
    lines = content.split(b"\n")
    index, value = where % len(lines), odd[what % len(odd)]
    match kind % 5:
        case 0:
            del lines[index]
        case 1:
            lines.insert(what % len(lines), lines[index])
        case 2 if not sign:
            fields = lines[index].replace(b",", b" ").split()
            lines[index] = lines[index].replace(fields[what % len(fields)], value) if fields else value
        case _ if sign and sign in lines[index]:
            lines[index] = lines[index].partition(sign)[0] + sign + value
        case _:
            lines[index] = value
    return b"\n".join(lines)


def _parquet(path: Path, kind: int, where: int, what: int) -> bytes:
    table = pq.read_table(path, use_threads=False)
    index = where % len(table.schema)
    name = table.schema.names[index]
    others: list[pa.Array] = [pa.nulls(len(table)), pa.array([None] * len(table), pa.float32())]
    others += [pa.array(["x"] * len(table)), pa.array([-1] * len(table)), pa.array([np.nan] * len(table))]
    others += [pa.array([[1]] * len(table)), pa.array([b"\xff"] * len(table)), pa.array([2**62] * len(table))]
    others += [pa.array(range(len(table), 0, -1)), pa.array([1e300] * len(table))]
    match kind % 4:
        case 0:
            table = table.drop_columns([name])
        case 1:
            table = table.slice(0, what % 2)
        case _:
            table = table.set_column(index, name, others[what % len(others)])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


# --- one run


class TooLong(BaseException):
    """Not an Exception: no reader may take it for a fault of its file."""


@contextmanager
def bounded(seconds: float = SECONDS, size: int = BYTES) -> Iterator[None]:
    """Ends a block that takes more processor time, or PATIENCE times as long, and bounds the memory that it takes.

    The processor's time, because a clock on the wall counts what other programs do.
    """
    start = time.process_time()
    looks = iter(range(1, PATIENCE + 1))

    def stop(*_: object) -> None:
        used = time.process_time() - start
        if used >= 0.9 * seconds or next(looks) == PATIENCE:
            raise TooLong(f"more than {seconds} s")

    before, limits = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + size, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def run(name: str, sample: Path, folder: Path, mutations: Sequence[tuple[int, Mutation]]) -> float:
    """Reads a copy of a sample after its mutations; the seconds it took. Raises whatever comes out but InputError.

    mutations: (which of its files, mutation) each.
    """
    target = TARGETS[name]
    shutil.copytree(sample, folder)
    files = sorted(path for path in folder.rglob(target.files) if path.is_file())
    for which, mutation in mutations:
        mutate(files[which % len(files)], mutation)
    start = time.perf_counter()
    with bounded(), suppress(InputError):
        target.read(folder)
    return time.perf_counter() - start


# --- targets


def _given(make: Callable, folder: Path) -> tuple[Path, dict[str, Any]]:
    """What a sample is read with, for files that are there already."""
    other = folder.with_name(folder.name + "-again")
    other.mkdir()
    try:
        source, given = make(other)
    finally:
        shutil.rmtree(other)
    moved = {
        key: folder / value.relative_to(other) if isinstance(value, Path) else value for key, value in given.items()
    }
    return folder / source.relative_to(other), moved


def _format_target(name: str) -> Target:
    def read(folder: Path) -> None:
        source, given = _given(SAMPLES[name], folder)
        options = {**given, "omissions": Omissions()}
        passed_over: list[InputError] = []
        for function, more in ((READERS[name], {}), (READERS[name], {"on_problem": passed_over.append})):
            with suppress(InputError):
                list(call(name, function, options | more, source))
        if name in CATEGORIES:
            with suppress(InputError):
                list(call(name, CATEGORIES[name], options, source))
        with suppress(InputError):
            list(check(source, name, **options))
        if source.is_file():
            with suppress(InputError):
                statistics(source, guess_format(source))

    return Target(SAMPLES[name], read)


def _file(name: str, content: bytes | str | Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))

    return make


def _only(name: str, *readers: Callable[[Path], Any]) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        for reader in readers:
            with suppress(InputError):
                reader(folder / name)

    return read


def _candidates(folder: Path) -> None:
    candidates = Candidates(
        np.array([0, 0, 3]),
        np.array(["a.jpg", "a.jpg", "b.jpg"], object),
        np.array([0, 1, 0], np.int32),
        np.ones((3, 4), np.float32),
        np.array([0.5, 0.25, 0.75], np.float32),
        (ImageProblem(2, "c.jpg", "is empty"),),
    )
    write_candidates(folder / "shard.parquet", candidates, "key")


def _hub_table(folder: Path) -> None:
    write_hub_table(folder / "train-00000-of-00001.parquet", names=["cat", None])


def _read_hub_table(folder: Path) -> None:
    for problems in (None, lambda problem: None):
        with suppress(InputError):
            list(read_huggingface(folder, on_problem=problems))
    read_huggingface_categories(folder)
    save_images(folder, folder / "saved")


def _config(source: str, kind: type) -> Target:
    return Target(
        lambda folder: shutil.copy(ROOT / "configs" / source, folder / "a.toml"),
        _only("a.toml", lambda path: read_config(path, kind)),
    )


def _small_checkpoint(folder: Path) -> None:
    """The names, the metadata and the smallest tensors of a checkpoint of ours: it is read, not built."""
    with safe_open(EMBEDDED["glyph-tiny"], "pt") as file:
        metadata = file.metadata()
        names = sorted(file.keys(), key=lambda name: file.get_slice(name).get_shape())[:20]
        save_file({name: file.get_tensor(name) for name in names}, folder / "a.safetensors", metadata)


def _checkpoint_config(folder: Path) -> None:
    with safe_open(EMBEDDED["glyph-tiny"], "pt") as file:
        for key in ("config", "provenance"):
            (folder / f"{key}.json").write_text(file.metadata()[key])
        save_file({"level_embedding": torch.zeros(4, 8)}, folder / "a.safetensors", {"format": "groundhog-1"})


def _read_checkpoint_config(folder: Path) -> None:
    parts = {path.stem: path.read_text(errors="replace") for path in folder.glob("*.json")}
    metadata = {"format": "groundhog-1", "tokenizer": "", **parts}
    save_file({"level_embedding": torch.zeros(4, 8)}, folder / "b.safetensors", metadata)
    build_model(read_weights(folder / "b.safetensors"), folder)


def _hub_folder(folder: Path) -> None:
    settings = {"model_type": "mm-grounding-dino", "decoder_layers": 6, "encoder_attention_heads": 8}
    settings |= {"backbone_config": {"model_type": "swin"}, "text_config": {"num_attention_heads": 12}, "d_model": 256}
    _file("config.json", settings | {"groundhog": {"dropout": 0.0}, "max_text_len": 256})(folder)
    save_file(
        {"model.level_embed": torch.zeros(4, 256), "class_embed.0.bias": torch.zeros(1)}, folder / "m.safetensors"
    )
    index = {"metadata": {"total_size": 4}, "weight_map": {"model.level_embed": "m.safetensors"}}
    _file("model.safetensors.index.json", index)(folder)


def _pickled(folder: Path) -> None:
    tensors = {"backbone.patch_embed.projection.weight": torch.zeros(2, 3), "language_model.x": torch.ones(3).half()}
    torch.save({"state_dict": tensors, "meta": {"epoch": 1, "cfg": "model = dict(encoder=dict())"}}, folder / "a.pth")


def _tokenizer(folder: Path) -> None:
    shutil.copy(GOLDEN / "a/bert/vocab.txt", folder / "vocab.txt")
    (folder / "tokenizer.json").write_text(load_tokenizer(folder / "vocab.txt").backend_tokenizer.to_str())


def _read_tokenizer(folder: Path) -> None:
    for source in (folder, folder / "vocab.txt"):
        with suppress(InputError):
            tokenize(["a cat. a dog."], load_tokenizer(source))
    with suppress(InputError, UnicodeDecodeError):
        tokenizer_from_text((folder / "tokenizer.json").read_text())


def _refused(*_: object, **__: object) -> None:
    raise ConnectionRefusedError("no network in tests")


def _fetch(folder: Path) -> None:
    url = (folder / "a.url").read_bytes().decode("utf-8", "surrogateescape")
    with mock.patch.object(socket, "create_connection", _refused), mock.patch.object(socket, "getaddrinfo", _refused):
        fetch(url, folder)


def _rounds(folder: Path) -> None:
    verdict = {"passed": True, "reasons": ["x"], "interval": [0.1, 0.2], "drift": {"counts": {"cat": [1, 2]}}}
    result = {"round": 1, "labels": "a_od_v1.json", "weights": "glyph-tiny", "ap": 0.5, "counts": {}, "metrics": {}}
    result["verdict"] = verdict
    payload = {"name": "x", "state": "ended", "reason": "", "policy": {}, "rounds": [result]}
    _file("rounds.json", payload)(folder)


def _manifest(folder: Path) -> None:
    source = next((ROOT / "tests/kept/labelling").rglob("manifest.json"))
    shutil.copy(source, folder / "manifest.json")


def _dod(folder: Path) -> None:
    import pickle

    contents = {
        "images": {1: {"group_id": 2, "file_name": "a.jpg"}},
        "groups": {2: {"inner_sent_id": [1, 3]}},
        "sentences": {1: {"is_negative": False}, 3: {"is_negative": True}},
    }
    for name, content in contents.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=2))


def _captions(name: str, content: Any) -> Target:
    return Target(_file(name, content), _only(name, lambda path: list(read_captions(path, path.parent)), read_phrases))


_REVIEWED = {"filename": "a.jpg", "height": 40, "width": 60, "reviewed": True, "since_round": 2}
_REVIEWED |= {"detection": {"instances": [{"bbox": [1, 2, 3, 4], "label": 0, "category": "cat", "score": 0.5}]}}

TARGETS: dict[str, Target] = {
    **{name: _format_target(name) for name in READERS},
    "lvis details": Target(SAMPLES["lvis"], _only("a.json", read_lvis_details)),
    "d3 details": Target(_dod, read_dod_details),
    "plain pickle": Target(_dod, _only("images.pkl", read_plain_pickle)),
    "label map": Target(
        _file("a.json", {"0": "cat", "1": "dog (animal)", "7": "Dog"}),
        _only("a.json", lambda path: list(name_problems(read_label_map(path), path)), read_category_names),
    ),
    "names in a text": Target(_file("a.txt", "cat\ndog\n'no'\n"), _only("a.txt", read_category_names)),
    "names in a YAML": Target(
        _file("a.yaml", "path: .\nkpt_shape: [17, 3]\nnames:\n  0: cat\n  1: 'dog'\n"),
        _only("a.yaml", read_category_names, keypoint_shape),
    ),
    "candidates": Target(_candidates, _only("shard.parquet", read_candidates, candidates_key)),
    "Hugging Face's Parquet": Target(_hub_table, _read_hub_table),
    "reviewed": Target(
        _file("a.json", "\n".join([json.dumps(_REVIEWED)] * 2)),
        _only("a.json", corrections_for),
    ),
    "training": _config("finetune_cat.toml", TrainConfig),
    "evaluation": _config("evaluate_glyphs_lvis.toml", EvaluateConfig),
    "self-training": _config("self_train_cat.toml", SelfTrainConfig),
    "quality": _config("quality_glyphs.toml", QualityConfig),
    "checkpoint": Target(_small_checkpoint, _only("a.safetensors", lambda p: build_model(read_weights(p), p))),
    "checkpoint's configuration": Target(_checkpoint_config, _read_checkpoint_config, "*.json"),
    "spans of a caption": Target(
        _file("a.json", [[[0, 5]], [[12, 17], [18, 20]]]),
        _only(
            "a.json", lambda path: Prompt.parse("a cat. also a dog.", tokens_positive=path.read_text(errors="replace"))
        ),
    ),
    "rounds": Target(_rounds, _only(".", read_loop_state)),
    "scores for an order": Target(
        _file("a.json", {"a.jpg": 0.5, "b.jpg": 1}),
        _only("a.json", read_order),
    ),
    "metadata of labels": Target(
        _file("x_od_v1.meta.json", {"policy": {"score_threshold": 0.3, "class_thresholds": {"cat": 0.5}}}),
        _only("x_od_v1.json", read_thresholds),
    ),
    "transformers folder": Target(_hub_folder, read_weights),
    "pickled checkpoint": Target(_pickled, _only("a.pth", read_weights)),
    "tokenizer": Target(_tokenizer, _read_tokenizer),
    "address": Target(_file("a.url", "http://127.0.0.1:9/photos/a%20b.jpg?size=2#x"), _fetch),
    "password": Target(_file(".env", "PREFECT_API_AUTH_STRING=me:secret\n"), _only(".env", password)),
    "manifest": Target(_manifest, read_manifest),
    "captions in CSV": _captions("a.csv", 'image,text\na.jpg,a cat\nb.jpg,"a dog, and a cat"\n'),
    "captions in JSON": _captions("a.json", {"a.jpg": ["a cat", "a dog"], "b.jpg": "a cat"}),
    "captions in lines": _captions("a.jsonl", '{"file_name":"a.jpg","text":"a cat"}\n{"file_name":"b.jpg","text":"x"}'),
    "captions of COCO": _captions(
        "a.json",
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]},
    ),
    "pixels": Target(SAMPLES["images"], _only("images/a.jpg", read_image)),
}
