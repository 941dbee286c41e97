import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def linear():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU())


@pytest.fixture
def batches_of():
    """All batches of a pass, as (x, y) of whole tensors."""

    def collect(passes):
        batches = list(passes())
        x = torch.cat([batch.args[0] for batch in batches])
        y = None if batches[0].target is None else torch.cat([batch.target for batch in batches])
        return x, y

    return collect
