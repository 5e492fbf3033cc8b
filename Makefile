# Every target sets the machine up first: a virtual environment with the versions of constraints.txt.
#   make demo    the whole loop on the embedded model, offline, with a report
#   make test    every test that this machine can run
#   make check   lint, types and the fast tests
#   make glyph-tiny   trains the embedded model from nothing, in under 90 minutes on two cores
#   make photo-tiny   trains the embedded model for photos, from glyph-tiny and a backbone, in under 30 minutes
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready
# A core a process; a model of the tests takes a gigabyte or two.
PYTEST := $(VENV)/bin/python -m pytest -n logical --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint check glyph-tiny photo-tiny clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)

# The stamp is written last, so that an install that was interrupted is done again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "groundhog needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	       "name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing (PyTorch included: some gigabytes, about five minutes) ..."
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(VENV)/bin/groundhog demo

test: $(READY)
	$(PYTEST)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

check: lint
	$(PYTEST) -m 'not slow'

# Where it lands the package finds it as "glyph-tiny".
glyph-tiny: $(READY)
	$(VENV)/bin/groundhog train configs/glyph_tiny.toml --resume
	$(VENV)/bin/groundhog train configs/glyph_tiny_nouns.toml --resume
	cp work_dirs/glyph_tiny_nouns/model.safetensors grounding_model/checkpoints/glyph-tiny.safetensors

# The backbone stays in its package.
photo-tiny: $(READY)
	$(VENV)/bin/groundhog train configs/photo_tiny.toml --resume
	$(VENV)/bin/groundhog weights work_dirs/photo_tiny/model.safetensors \
		grounding_model/checkpoints/photo-tiny.safetensors --half --backbone-from efficientnet-lite0

clean:
	rm -rf $(VENV) build *.egg-info
