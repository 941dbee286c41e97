"""Models of timm that make calls of the ReLU family, the smallest variants of each family."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from torch import nn

from benchmarks.zoo_models.model import ZooModel, gaussian

FAMILIES: dict[str, str] = {
    "resnet": "resnet10t resnet18 resnet26d resnet50_gn",
    "resnetaa": "resnetaa34d",
    "resnetblur": "resnetblur18",
    "resnetrs": "resnetrs50",
    "resnext": "resnext50_32x4d",
    "seresnet": "seresnet18 seresnext26d_32x4d",
    "ecaresnet": "ecaresnet26t ecaresnext26t_32x4d",
    "test_resnet": "test_resnet",
    "resnetv2": "resnetv2_18 resnetv2_50x1_bit resnetv2_50d_frn",
    "resnest": "resnest14d",
    "sknet": "skresnet18 skresnext50_32x4d",
    "res2net": "res2net50_14w_8s res2next50",
    "senet": "legacy_seresnet18 legacy_seresnext26_32x4d",
    "botnet": "botnet26t_256",
    "halonet": "halonet26t",
    "lambda_resnet": "lambda_resnet26t",
    "repvgg": "repvgg_a0",
    "mobileone": "mobileone_s0",
    "gernet": "gernet_s",
    "gcresnet": "gcresnet50t",
    "bat_resnext": "bat_resnext26ts",
    "resnet_clip": "resnet50_clip resnet50_clip_gap",
    "cspnet": "cspresnet50",
    "densenet": "densenet121 densenetblur121d",
    "dla": "dla34 dla46_c dla60_res2net",
    "dpn": "dpn48b dpn68",
    "efficientnet_es": "efficientnet_es",
    "efficientnet_lite": "efficientnet_lite0",
    "tf_efficientnet_lite": "tf_efficientnet_lite0",
    "fbnet": "fbnetc_100",
    "mixnet": "mixnet_s tf_mixnet_s",
    "mnasnet": "mnasnet_small semnasnet_050",
    "mobilenet_edgetpu": "mobilenet_edgetpu_100 mobilenet_edgetpu_v2_xs",
    "mobilenetv1": "mobilenetv1_100",
    "mobilenetv2": "mobilenetv2_035 mobilenetv2_110d",
    "mobilenetv3": "mobilenetv3_small_050 mobilenetv3_rw tf_mobilenetv3_small_075 tf_mobilenetv3_large_minimal_100",
    "mobilenetv4": "mobilenetv4_conv_small_035 mobilenetv4_hybrid_medium_075 mobilenetv4_conv_blur_medium",
    "fbnetv3": "fbnetv3_b",
    "lcnet": "lcnet_035",
    "lcnetv2": "lcnetv2_small",
    "spnasnet": "spnasnet_100",
    "hardcorenas": "hardcorenas_a",
    "ghostnet": "ghostnet_050 ghostnetv2_100 ghostnetv3_050",
    "repghost": "repghostnet_050",
    "hgnet": "hgnet_tiny hgnetv2_b0",
    "hrnet": "hrnet_w18_small",
    "inception": "inception_v3 inception_v4 inception_resnet_v2",
    "inception_next": "inception_next_atto",
    "nasnet": "nasnetalarge",
    "pnasnet": "pnasnet5large",
    "regnet": "regnetx_002 regnety_002 regnetv_040",
    "rexnet": "rexnet_100 rexnetr_100",
    "selecsls": "selecsls42b",
    "tresnet": "tresnet_m tresnet_v2_l",
    "vgg": "vgg11 vgg11_bn",
    "vovnet": "vovnet39a ese_vovnet19b_slim_dw eca_vovnet39b",
    "xception": "legacy_xception xception41 xception41p",
    "nfnet": "nf_resnet26 nf_seresnet26 nf_regnet_b0",
    "nextvit": "nextvit_small",
    "convmixer": "convmixer_768_32",
    "crossvit": "crossvit_9_dagger_240",
    "cpubone": "cpubone_nano",
    "lowformer": "lowformer_b0",
    "efficientformer": "efficientformer_l1",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0 efficientvit_l1",
    "efficientvit_msra": "efficientvit_m0",
    "fasternet": "fasternet_t0 fasternet_s",
    "metaformer": "convformer_s18 caformer_s18 poolformerv2_s12",
    "mobilevit": "mobilevitv2_050",
    "pvt_v2": "pvt_v2_b2_li",
    "shvit": "shvit_s1",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swinv2": "swinv2_tiny_window8_256",
    "swinv2_cr": "swinv2_cr_tiny_224",
    "visformer": "visformer_tiny",
    "vit_hybrid": "vit_tiny_r_s16_p8_224 vit_small_resnet26d_224",
    "volo": "volo_d1_224",
    "maxxvit": "coatnet_nano_rw_224 coatnet_nano_cc_224 maxvit_pico_rw_256",
}
"""By family, its models here."""

OPTIONS: dict[str, dict[str, Any]] = {
    "swinv2_tiny_window8_256": {"img_size": 64, "window_size": 4},
    "swinv2_cr_tiny_224": {"img_size": 64, "window_size": 2},
    "vit_tiny_r_s16_p8_224": {"img_size": 64},
    "vit_small_resnet26d_224": {"img_size": 64},
    "volo_d1_224": {"img_size": 64},
    "visformer_tiny": {"img_size": 64},
    "nextvit_small": {},
}

SIZES = {
    "inception_v3": 96,
    "inception_v4": 96,
    "inception_resnet_v2": 96,
    "legacy_xception": 80,
    "nasnetalarge": 96,
    "pnasnet5large": 96,
    "crossvit_9_dagger_240": 240,
    "efficientvit_m0": 224,
    "efficientformer_l1": 224,
    "coatnet_nano_rw_224": 224,
    "coatnet_nano_cc_224": 224,
    "maxvit_pico_rw_256": 256,
    "botnet26t_256": 256,
    "halonet26t": 256,
    "lambda_resnet26t": 256,
    "resnet50_clip": 224,
    "bat_resnext26ts": 256,
}
"""Side of the input; 64 for the others."""


def timm_models() -> Iterator[ZooModel]:
    """Every model listed here."""
    for family, names in FAMILIES.items():
        for name in names.split():
            size = SIZES.get(name, 64)
            yield ZooModel(f"timm/{name}", family, functools.partial(_make, name), (gaussian(3, size, size),))


def _make(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=10, **OPTIONS.get(name, {}))
