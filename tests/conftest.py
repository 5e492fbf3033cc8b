"""What several test files share."""

import pytest

from tests.paths import GOLDEN


@pytest.fixture(scope="session")
def reference_checkpoint():
    """The reference's small random model, loaded as any user does it: .model, .tokenizer, .provenance."""
    from grounding_model.weights import load_checkpoint

    return load_checkpoint(GOLDEN / "a" / "checkpoint.pth", text_encoder=GOLDEN / "a" / "bert")


@pytest.fixture(scope="session")
def reference_model(reference_checkpoint):
    return reference_checkpoint.model
