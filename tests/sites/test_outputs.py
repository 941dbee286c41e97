"""Which activations are the model's outputs: those that nothing reads but the caller."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sites.made import Made, found_in, noise
from torch import nn

from prelu_doctor.sites.consumers import is_output

OUTPUTS = {
    "the last operation": lambda m, x: F.relu(m.fc(x)),
    "in another form": lambda m, x: F.relu(m.fc(x)).view(-1, 2, 3).transpose(1, 2),
    "in a dictionary": lambda m, x: {"logits": F.relu(m.fc(x)), "x": x},
}
HIDDEN = {
    "read by a layer": lambda m, x: m.head(F.relu(m.fc(x))),
    "returned and read": lambda m, x: ((h := F.relu(m.fc(x))), m.head(h)),
    "summed": lambda m, x: F.relu(m.fc(x)).mean(1),
    "added": lambda m, x: F.relu(m.fc(x)) + 1,
    "thrown away": lambda m, x: (F.relu(m.fc(x)), m.fc(x))[1],
}


def answer(forward) -> bool:
    torch.manual_seed(0)
    graph, sites = found_in(Made(forward, fc=nn.Linear(4, 6), head=nn.Linear(6, 2)), noise(3, 4))
    return is_output(graph, sites.found[0].calls)


@pytest.mark.parametrize("name", OUTPUTS)
def test_units_that_only_the_caller_reads_are_outputs(name: str) -> None:
    assert answer(OUTPUTS[name])


@pytest.mark.parametrize("name", HIDDEN)
def test_units_that_something_reads_are_not(name: str) -> None:
    assert not answer(HIDDEN[name])
