"""A stranger's file is read, never run."""

from __future__ import annotations

import os
import pickle
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from formats.io.errors import InputError
from formats.io.plain_pickle import read_plain_pickle
from grounding_model.checkpoints.safe_pickle import LEGACY_HEAD, read_pickled_checkpoint
from tests.paths import GOLDEN

CHECKPOINT = GOLDEN / "a" / "checkpoint.pth"  # written by mmengine: HistoryBuffer and numpy stand in its message_hub


class Attack:
    """Pickles as a call of `function`, as malicious files do."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def save(path: Path, content: object, zipped: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_those_that_torch_wrote(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "plain": torch.randn(3, 2),
        "transposed": base.t(),
        "slice": base[1:3, 2:5],
        "half": torch.randn(5).half(),
        "bfloat16": torch.randn(5).bfloat16(),
        "counter": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    path = save(tmp_path / "a.pth", {"state_dict": OrderedDict(tensors), "meta": {"cfg": "a = 1"}}, zipped)
    read = read_pickled_checkpoint(path)
    assert read.meta == {"cfg": "a = 1"}
    assert list(read.tensors) == list(tensors)
    for name, tensor in tensors.items():
        assert read.tensors[name].dtype == tensor.dtype
        assert torch.equal(read.tensors[name], tensor)


def test_mmengine_objects_do_not_hinder() -> None:
    read = read_pickled_checkpoint(CHECKPOINT)
    assert len(read.tensors) == 369
    assert read.meta["mmengine_version"] == "0.10.7"
    assert "model = dict(" in str(read.meta["cfg"])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", [None, "model"])
def test_tensors_may_stand_at_the_top_or_under_model(tmp_path: Path, zipped: bool, key: str | None) -> None:
    tensors = {"a": torch.ones(2)}
    path = save(tmp_path / "a.bin", tensors if key is None else {key: tensors, "epoch": 3}, zipped)
    assert torch.equal(read_pickled_checkpoint(path).tensors["a"], torch.ones(2))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [os.mkdir, exec, eval, os.system])
def test_an_attack_is_refused_and_not_executed(tmp_path: Path, zipped: bool, function: object) -> None:
    trace = tmp_path / "executed"
    arguments = {
        os.mkdir: (str(trace),),
        exec: (f"open({str(trace)!r}, 'w')",),
        eval: (f"open({str(trace)!r}, 'w')",),
        os.system: (f"touch {trace}",),
    }[function]
    content = {"state_dict": {"a": torch.ones(2)}, "hooks": [Attack(function, *arguments)]}
    path = save(tmp_path / "a.pth", content, zipped)
    with pytest.raises(InputError, match=rf"a\.pth: would run \w+\.{function.__name__}, .* nothing was run"):
        read_pickled_checkpoint(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the attack is a real one
    assert trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_on_no_list_of_attacks_is_not_executed_either(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "executed"
    content = {"state_dict": {"a": torch.ones(2)}, "hooks": [Attack(Path.touch, trace)]}
    path = save(tmp_path / "a.pth", content, zipped)
    assert torch.equal(read_pickled_checkpoint(path).tensors["a"], torch.ones(2))
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the attack is a real one
    assert trace.exists()


def test_an_object_in_place_of_a_tensor_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"state_dict": {"a": torch.ones(2), "b": Attack(sum, ())}}, True)
    with pytest.raises(InputError, match=r"a\.pth: 'b' is not a tensor but"):
        read_pickled_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.99, 0.7, 0.3, 0.02])
def test_a_file_cut_short_is_refused(tmp_path: Path, zipped: bool, kept: float) -> None:
    path = save(tmp_path / "a.pth", {"state_dict": {str(i): torch.randn(50) for i in range(40)}}, zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(InputError, match=r"a\.pth: "):
        read_pickled_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git-lfs pointer"),
        (b"\0" * 4096, "starts with zeros"),
        (b"\x89PNG\r\n", "not a PyTorch file"),
        (pickle.dumps({"a": 1}), "not written by torch.save"),
    ],
)
def test_the_error_says_what_the_file_is_instead(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_pickled_checkpoint(path)


def test_other_archives_and_absent_files_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="without a checkpoint"):
        read_pickled_checkpoint(tmp_path / "a.zip")
    with pytest.raises(InputError, match="no such file"):
        read_pickled_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match="contains no table of tensors"):
        read_pickled_checkpoint(save(tmp_path / "b.pth", {"epoch": 3}, True))


@pytest.mark.parametrize("name", ["torch\nFloatStorage", "torch._utils\n_rebuild_tensor_v2"])
def test_what_stands_for_a_name_cannot_be_overwritten(tmp_path: Path, name: str) -> None:
    program = f"c{name}\n(dS'dtype'\nNsb.".encode()  # look the name up, then set its attribute `dtype` to None
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(InputError, match="overwrites the description"):
        read_pickled_checkpoint(tmp_path / "a.pth")


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path: Path) -> None:
    class Greedy:
        def __reduce__(self) -> tuple:
            storage = torch.ones(4).untyped_storage()
            return torch._utils._rebuild_tensor_v2, (
                torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True),
                0,
                (1 << 40,),
                (0,),
                False,
                OrderedDict(),
            )

    path = save(tmp_path / "a.pth", {"state_dict": {"a": Greedy()}}, True)
    with pytest.raises(InputError, match="does not fit its storage"):
        read_pickled_checkpoint(path)


def hostile_program(name: str) -> bytes:
    """Pickles of a hundred bytes or so that stand for more than a computer has: memory, stack or time."""
    doubling = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    deep = b")" + b"\x85" * 200_000
    lists = b"".join(b"q" + bytes([i]) + b"(h" + bytes([i]) + b"h" + bytes([i]) + b"l" for i in range(60))
    return {
        "a doubling tuple as key": b"\x80\x02}" + doubling + b"K\x01s.",
        "doubling tuples as keys": b"\x80\x02}(" + doubling + b"K\x01u.",
        "a doubling tuple as a key of an OrderedDict": b"\x80\x02ccollections\nOrderedDict\n]"
        + doubling
        + b"K\x01\x86a\x85R.",
        "a doubling tuple in a set": b"\x80\x04\x8f(" + doubling + b"\x90.",
        "a doubling tuple in a frozen set": b"\x80\x04(" + doubling + b"\x91.",
        "a nested tuple as key": b"\x80\x02}" + deep + b"K\x01s.",
        "nested tuples": b"\x80\x02" + deep + b".",
        "doubling lists": b"\x80\x02" + b"(X\x05\0\0\0aaaaal" + lists + b".",
        "a list in itself": b"\x80\x02]q\0h\0a.",
        "a memo of a billion": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "a text of a terabyte": b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b".",
        "numbers of equal hash as keys": b"\x80\x02}"
        + b"".join(pickle.dumps(i * (2**61 - 1), 2)[2:-1] + b"Ns" for i in range(1, 200_000))
        + b".",
    }[name]


HOSTILE = (
    "a doubling tuple as key",
    "doubling tuples as keys",
    "a doubling tuple as a key of an OrderedDict",
    "a doubling tuple in a set",
    "a doubling tuple in a frozen set",
    "a nested tuple as key",
    "nested tuples",
    "doubling lists",
    "a list in itself",
    "a memo of a billion",
    "a text of a terabyte",
    "numbers of equal hash as keys",
)


@pytest.mark.parametrize("form", ["archive", "stream", "plain"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_pickle_costs_neither_memory_nor_stack_nor_time(tmp_path: Path, name: str, form: str) -> None:
    program = hostile_program(name)
    if "nested" in name and form == "stream":
        pytest.skip("half a second each, and the same reader as of an archive")
    if form == "archive":
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            archive.writestr("archive/data.pkl", program)
    else:
        system = pickle.dumps({"little_endian": True}, 2)
        head = LEGACY_HEAD + pickle.dumps(1001, 2) + system if form == "stream" else b""
        (tmp_path / "a.pth").write_bytes(head + program + (pickle.dumps([], 2) if head else b""))
    before = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(InputError) if name != "a memo of a billion" or form != "plain" else nullcontext():
            (read_plain_pickle if form == "plain" else read_pickled_checkpoint)(tmp_path / "a.pth")
        assert tracemalloc.get_traced_memory()[1] < 100 * len(program) + 2_000_000
    finally:
        tracemalloc.stop()
    assert time.process_time() - before < 20


def test_tensors_that_share_their_numbers_may_not_multiply_the_file(tmp_path: Path) -> None:
    shared = torch.ones(50_000)
    read = read_pickled_checkpoint(save(tmp_path / "a.pth", {f"head.{i}": shared for i in range(7)}, True))
    assert len(read.tensors) == 7
    with pytest.raises(InputError, match="times its"):
        read_pickled_checkpoint(save(tmp_path / "b.pth", {f"head.{i}": shared for i in range(50)}, True))


def test_what_trainers_store_besides_tensors_is_within_the_bounds(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "message_hub": {"history": {("train", 1): [(i, i / 2) for i in range(5000)]}, "types": {torch.float32: 1}},
    }
    assert read_pickled_checkpoint(save(tmp_path / "a.pth", content, True)).tensors.keys() == {"weight", "bias"}
