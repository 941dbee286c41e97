"""Columns of units of networks as people use them: what is said about a sample of each site's units is so."""

from __future__ import annotations

import pytest
import torch
import torchvision
from sites.made import noise
from sites.perturbed import contradictions, examined
from torch import nn

MODELS = {"densenet121": 0.99, "shufflenet_v2_x0_5": 1.0, "mobilenet_v3_small": 1.0, "googlenet": 1.0, "resnet18": 0.5}
"""The share of sites at least of which all units can be cut off."""


class Double(nn.Sequential):
    """Two convolutions with norms and ReLUs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """Down by pooling, up by a transposed convolution or by interpolation, skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = Double(3, 4), Double(4, 6), Double(6, 8)
        self.up2, self.join2 = nn.ConvTranspose2d(8, 6, 2, stride=2), Double(12, 6)
        self.up1, self.join1 = nn.Upsample(scale_factor=2, mode="bilinear"), Double(10, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(nn.functional.max_pool2d(first, 2))
        bottom = self.bottom(nn.functional.max_pool2d(second, 2))
        y = self.join2(torch.cat([second, self.up2(bottom)], 1))
        return self.head(self.join1(torch.cat([self.up1(y), first], 1)))


def model_named(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options)
    return alive(model)


def alive(model: nn.Module) -> nn.Module:
    """He-normal weights and lively norms, so that no signal fades on its way to the output."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.double().eval()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_said_about_units_of_a_torchvision_model_is_so(name):
    model, x = model_named(name), noise(2, 3, 32, 32).double()
    sites = examined(model, (x,))
    followed = [site.id for site, readers in sites if not readers.declined]
    assert len(followed) >= MODELS[name] * len(sites)
    for site, readers in sites[:: len(sites) // 5]:
        assert contradictions(model, (x,), site, readers, [site.units // 2]) == []


def test_every_unit_of_a_u_net_can_be_cut_off():
    torch.manual_seed(0)
    model, x = alive(UNet()), noise(2, 3, 8, 8).double()
    for site, readers in examined(model, (x,)):
        assert readers.declined == {}
        assert set(readers.columns) == set(range(site.units))
        assert contradictions(model, (x,), site, readers, [0, site.units - 1]) == []
