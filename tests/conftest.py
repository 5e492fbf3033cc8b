"""What several test files share."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.paths import GOLDEN

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: they share the cores, and torch comes later
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if not Path("/proc/driver/nvidia").exists():  # no GPU: Triton's kernels are interpreted; it is told before its import
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What a property is worth does not hang on how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def reference_checkpoint():
    """The reference's small random model, loaded as any user does it: .model, .tokenizer, .provenance."""
    from grounding_model.checkpoints.weights import load_checkpoint

    return load_checkpoint(GOLDEN / "a" / "checkpoint.pth", text_encoder=GOLDEN / "a" / "bert")


@pytest.fixture(scope="session")
def reference_model(reference_checkpoint):
    return reference_checkpoint.model
