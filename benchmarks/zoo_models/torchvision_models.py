"""All of torchvision: classifiers, quantisable ones in float, segmentation, detection, video, optical flow."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from torch import nn

from benchmarks.zoo_models.model import Draw, ZooModel, gaussian, uniform

SIZES = {
    "alexnet": 67,
    "vgg": 32,
    "inception_v3": 96,
    "quantized_inception_v3": 96,
    "vit": 32,
    "vit_h": 28,
    "swin": 32,
    "swin_v2": 64,
    "maxvit": 224,
    "googlenet": 48,
    "quantized_googlenet": 48,
    "raft": 128,
}
"""Side of the input by the start of a name, the longest that fits; 40 for the others."""

OPTIONS: dict[str, dict[str, object]] = {
    "googlenet": {"init_weights": False, "aux_logits": False},
    "inception_v3": {"init_weights": False, "aux_logits": False},
    "quantized_googlenet": {"init_weights": False, "aux_logits": False},
    "quantized_inception_v3": {"init_weights": False, "aux_logits": False},
    "vit_h": {"image_size": 28},
    "vit": {"image_size": 32},
}

FAMILIES = """
    resnext wide_resnet resnet vgg densenet mobilenet_v2 mobilenet_v3 shufflenet_v2 squeezenet mnasnet regnet_x regnet_y
    efficientnet_v2 efficientnet convnext swin_v2 swin3d swin vit maxvit alexnet googlenet inception mvit raft ssdlite
    ssd retinanet fcos fasterrcnn maskrcnn keypointrcnn fcn deeplabv3 lraspp s3d r2plus1d r3d mc3
""".split()


def torchvision_models() -> Iterator[ZooModel]:
    """Every model that torchvision can build."""
    from torchvision import models

    for name in models.list_models(module=models):
        yield _model(name, gaussian(3, _size_of(name), _size_of(name)))
    for name in models.list_models(module=models.quantization):
        yield _model(name, gaussian(3, _size_of(name), _size_of(name)), quantize=False)
    for name in models.list_models(module=models.segmentation):
        aux = {} if name.startswith("lraspp") else {"aux_loss": True}
        yield _model(name, gaussian(3, 64, 64), weights_backbone=None, **aux)
    for name in models.list_models(module=models.detection):
        sides = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 64}
        yield _model(name, uniform(3, 64, 64), weights_backbone=None, **sides, **_few_candidates(name))
    for name in models.list_models(module=models.video):
        clip = (16, 224, 224) if name.startswith(("s3d", "mvit")) else (4, 32, 32)
        yield _model(name, gaussian(3, *clip))
    for name in models.list_models(module=models.optical_flow):
        yield _model(name, *[gaussian(3, _size_of(name), _size_of(name))] * 2)


def _model(name: str, *inputs: Draw, **options: object) -> ZooModel:
    extra = next((extra for start, extra in OPTIONS.items() if name.startswith(start)), {})
    family = next((family for family in FAMILIES if name.removeprefix("quantized_").startswith(family)), name)
    return ZooModel(f"torchvision/{name}", family, functools.partial(_make, name, {**extra, **options}), inputs)


def _few_candidates(name: str) -> dict[str, int]:
    """A random detector finds something everywhere: these keep its heads as small as a trained one's."""
    if "rcnn" in name:
        return {"rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 10, "box_detections_per_img": 4}
    return {"topk_candidates": 20, "detections_per_img": 4}


def _make(name: str, options: dict[str, object]) -> nn.Module:
    from torchvision import models

    return models.get_model(name, weights=None, **options)


def _size_of(name: str) -> int:
    fitting = [start for start in SIZES if name.startswith(start)]
    return SIZES[max(fitting, key=len)] if fitting else 40
