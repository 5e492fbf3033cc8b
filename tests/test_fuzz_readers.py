"""Whatever stands in a file: its reader raises InputError or nothing, in bounded time and memory."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formats.io.errors import InputError
from formats.io.values import MAX_DEPTH, Table, parse_json
from tests.fuzzing import BYTES, SECONDS, TARGETS, TooLong, bounded, run

_EXAMPLES = 100  # of each reader; 40 s of processor time for all
_NUMBERS = st.integers(0, 999_999)
_MUTATIONS = st.lists(st.tuples(_NUMBERS, st.tuples(_NUMBERS, _NUMBERS, _NUMBERS)), min_size=1, max_size=3)


@pytest.fixture(scope="module", params=TARGETS)
def sample(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    TARGETS[request.param].make(folder)
    return request.param, folder


def _run(name: str, sample: Path, mutations: list) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        run(name, sample, root / "x", mutations)
    finally:
        shutil.rmtree(root)


@pytest.mark.slow
def test_a_sample_itself_is_read(sample, tmp_path):
    name, folder = sample
    shutil.copytree(folder, tmp_path / "x")
    if name not in ("checkpoint", "checkpoint's configuration", "transformers folder", "pickled checkpoint", "address"):
        TARGETS[name].read(tmp_path / "x")  # those have tensors, or a host, of a part only


@pytest.mark.slow
@settings(max_examples=_EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations=_MUTATIONS)
def test_only_input_errors_come_out_of_a_mutated_file(sample, mutations):
    _run(*sample, mutations)


def test_the_bounds_of_the_fuzzing_bind():
    with pytest.raises(TooLong), bounded(seconds=0.05):
        time.sleep(60)
    with pytest.raises(MemoryError), bounded(size=1 << 28):
        bytearray(1 << 29)
    assert SECONDS < 10
    assert BYTES < 1 << 32


def test_json_is_bounded_in_depth_and_digits():
    for text in ("[" * 100_000, "[" * 900 + "]" * 900, "7" * 5_000, '{"a": NaN'):
        with pytest.raises(InputError, match=r"x\.json: is"):
            parse_json(text, "x.json", "expected JSON")
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH, "x", "")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "x.json: a: is a list of 0; expected a whole number from 0 to 9"),
        (True, "is true; expected a whole number"),
        (10, "is 10; expected a whole number from 0 to 9"),
        (10**400, "expected a whole number from 0 to 9"),
        ("1", "is '1'; expected"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(value, message):
    with pytest.raises(InputError, match=message):
        Table({"a": value}, "x.json").whole("a", high=9)
    assert Table({"a": None}, "x.json").whole("a", 3) == 3
