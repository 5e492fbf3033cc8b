"""Nothing that comes with weights or a tokenizer is run."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest

from formats.io.errors import InputError
from grounding_model.inputs.tokens import load_tokenizer

ROOT = Path(__file__).parent.parent
ROOMS = ("browse", "flows", "formats", "grounding_model", "benchmarks")


def _loads() -> list[tuple[str, ast.Call]]:
    """Every call that has transformers read a model, a configuration or a tokenizer."""
    found = []
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


def test_whatever_transformers_loads_is_loaded_without_code_of_strangers():
    loads = _loads()
    assert loads
    for location, call in loads:
        given = {each.arg: each.value for each in call.keywords}
        value = given.get("trust_remote_code")
        named = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)
        concrete = named and not call.func.value.id.startswith(
            "Auto"
        )  # a class of transformers itself runs no auto_map
        assert concrete or (isinstance(value, ast.Constant) and value.value is False), location


def test_a_tokenizer_folder_cannot_run_its_own_python(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({os.fspath(ran)!r}, 'w')\nclass Evil: pass\n")
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", **settings}))
    with pytest.raises(InputError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    assert not ran.exists()
