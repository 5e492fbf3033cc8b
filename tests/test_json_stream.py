"""Large JSON read an item at a time gives what the standard library gives, wherever a chunk ends."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import InputError
from formats.io import json_stream
from formats.io.json_stream import PackedItems, stream_json

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


def rebuilt(path):
    """The whole value, of its steps."""
    items = stream_json(path, "expected JSON")
    whole = next(items).value
    for key, position, value in items:
        if isinstance(whole, list):
            whole.append(value)
        elif position is None:
            whole[key] = value
        else:
            whole[key].append(value)
    return whole


@settings(max_examples=50)
@given(value=_values, chunk=st.integers(1, 9), indent=st.sampled_from([None, 1]))
def test_any_value_in_chunks_of_any_size(tmp_path_factory, value, chunk, indent):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert rebuilt(path) == value


@settings(max_examples=100)
@given(text=st.text('[]{},:"01 \\ntrue', max_size=12), chunk=st.integers(1, 5))
def test_what_json_refuses_is_refused(tmp_path_factory, text, chunk):
    path = tmp_path_factory.getbasetemp() / "some.json"
    path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        try:
            expected = json.loads(text)
        except ValueError:
            with pytest.raises(InputError, match="is not JSON"):
                rebuilt(path)
        else:
            assert rebuilt(path) == expected


def test_an_error_names_its_character(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2 3]}')
    with pytest.raises(InputError, match=r"a\.json: is not JSON \(Expecting ',': character 12\); expected JSON"):
        list(stream_json(path, "expected JSON"))


def test_items_come_before_the_end_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 8)
    (tmp_path / "a.json").write_text("[1, 2, 3, 4, 5, 6, nonsense")
    items = stream_json(tmp_path / "a.json", "expected JSON")
    assert [next(items).value for _ in range(3)] == [[], 1, 2]


@settings(max_examples=30)
@given(values=st.lists(_values, max_size=4))
def test_packed_items_come_back(values):
    packed = PackedItems()
    for value in values:
        packed.append(value)
    assert list(packed) == values
    assert len(packed) == len(values)
