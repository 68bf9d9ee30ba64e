import pytest
from controller_training import Training


@pytest.fixture
def training():
    return Training()
