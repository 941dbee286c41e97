"""Models with random weights, each with inputs that are small: for the zoo run and for the tests."""

from __future__ import annotations

import functools

from benchmarks.zoo_models.model import ZooModel
from benchmarks.zoo_models.plain_models import plain_models
from benchmarks.zoo_models.timm_models import timm_models
from benchmarks.zoo_models.torchvision_models import torchvision_models
from benchmarks.zoo_models.transformers_models import transformers_models


@functools.cache
def zoo_models() -> dict[str, ZooModel]:
    """Every model of the zoo by its name."""
    sources = (plain_models, torchvision_models, timm_models, transformers_models)
    return {model.name: model for source in sources for model in source()}
