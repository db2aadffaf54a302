from __future__ import annotations

import pytest

from tests.inference.small_model import make_artifact, make_rows


@pytest.fixture(scope="session")
def artifact():
    return make_artifact()


@pytest.fixture(scope="session")
def rows():
    return make_rows(41)
