"""Architectures of transformers in tiny configurations, built from their configuration classes alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.zoo_models.model import Draw, ZooModel, counting, gaussian, ones, tokens, uniform

VOCABULARY = 64

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "d_model": 16,
    "n_embd": 16,
    "dim": 16,
    "d_kv": 8,
    "head_dim": 8,
    "d_ff": 32,
    "hidden_dim": 32,
    "ffn_dim": 32,
    "dff": 32,
    "intermediate_size": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "dim_feedforward": 32,
    "encoder_feedforward_dim": 32,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_hidden_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "n_head": 2,
    "n_heads": 2,
    "num_heads": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 64,
    "num_queries": 6,
    "word_embed_proj_dim": 16,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "use_cache": False,
}
"""Values for whichever of these fields a configuration has."""

TEXT = {"input_ids": tokens(VOCABULARY, 8)}
TEXT_PAIR = {"input_ids": tokens(VOCABULARY, 8), "decoder_input_ids": tokens(VOCABULARY, 6)}
IMAGE = {"pixel_values": gaussian(3, 32, 32)}
LARGER_IMAGE = {"pixel_values": gaussian(3, 64, 64)}
SOUND = {"input_values": gaussian(1600)}

UNFUSED = {"attn_implementation": "eager"}
"""For models of which torch.onnx.export does not take the fused attention."""

CONVOLVED_SPEECH = {
    "conv_dim": (8, 8, 8),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 3,
    "feat_extract_activation": "relu",
    "hidden_act": "relu",
}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}


def transformers_models() -> Iterator[ZooModel]:
    """Every model listed here."""
    for name, (family, make, inputs) in _table().items():
        yield ZooModel(f"transformers/{name}", family, make, kwargs=inputs)


Row = tuple[str, Callable[[], nn.Module], dict[str, Draw]]


def _table() -> dict[str, Row]:
    return {
        **_language_models(),
        **_encoder_decoders(),
        **_vision(),
        **_detection(),
        **_dense_vision(),
        **_audio(),
        **_other(),
    }


def _row(family: str, model: str, config: str, inputs: dict[str, Draw], **options: Any) -> Row:
    return family, functools.partial(_make, model, config, options), inputs


def _make(model: str, config: str, options: dict[str, Any]) -> nn.Module:
    import transformers

    return getattr(transformers, model)(_config(config, options))


def _config(name: str, options: dict[str, Any]) -> Any:
    """A configuration, small in every field that is not given; parts are given as (class name, options)."""
    import transformers

    given = {key: _part(value) for key, value in options.items()}
    kind = getattr(transformers, name)
    fields = set(getattr(kind, "__annotations__", {})) | {
        key for base in kind.__mro__ for key in getattr(base, "__annotations__", {})
    }
    return kind(**{key: value for key, value in SMALL.items() if key in fields and key not in given}, **given)


def _part(value: Any) -> Any:
    return _config(*value) if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict) else value


def _language_models() -> dict[str, Row]:
    return {
        "opt": _row("opt", "OPTForCausalLM", "OPTConfig", TEXT),
        "opt_classifier": _row("opt", "OPTForSequenceClassification", "OPTConfig", TEXT, pad_token_id=1),
        "nemotron": _row("nemotron", "NemotronForCausalLM", "NemotronConfig", TEXT),
        "nemotron_h": _row(
            "nemotron_h",
            "NemotronHForCausalLM",
            "NemotronHConfig",
            TEXT,
            layers_block_type=["mamba", "attention", "mlp", "moe"],
            ssm_state_size=8,
            mamba_num_heads=4,
            mamba_head_dim=8,
            n_groups=2,
            chunk_size=4,
            n_routed_experts=4,
            moe_intermediate_size=16,
            moe_shared_expert_intermediate_size=16,
        ),
        "arcee": _row("arcee", "ArceeForCausalLM", "ArceeConfig", TEXT),
        "jais2": _row("jais2", "Jais2ForCausalLM", "Jais2Config", TEXT),
        "nanochat": _row("nanochat", "NanoChatForCausalLM", "NanoChatConfig", TEXT),
        "persimmon": _row("persimmon", "PersimmonForCausalLM", "PersimmonConfig", TEXT),
        "bitnet": _row("bitnet", "BitNetForCausalLM", "BitNetConfig", TEXT),
        "llama_relu": _row("llama", "LlamaForCausalLM", "LlamaConfig", TEXT, hidden_act="relu"),
        "falcon_relu": _row("falcon", "FalconForCausalLM", "FalconConfig", TEXT, activation="relu"),
        "gpt2_relu": _row("gpt2", "GPT2LMHeadModel", "GPT2Config", TEXT, activation_function="relu"),
        "openai_gpt_relu": _row("openai", "OpenAIGPTLMHeadModel", "OpenAIGPTConfig", TEXT, afn="relu"),
        "ctrl": _row("ctrl", "CTRLLMHeadModel", "CTRLConfig", TEXT),
        "rwkv": _row("rwkv", "RwkvForCausalLM", "RwkvConfig", TEXT, attention_hidden_size=16),
        "reformer": _row(
            "reformer",
            "ReformerModelWithLMHead",
            "ReformerConfig",
            TEXT,
            is_decoder=True,
            attn_layers=["local", "local"],
            axial_pos_embds=False,
            local_attn_chunk_length=4,
            attention_head_size=8,
            feed_forward_size=32,
        ),
        "xlnet_relu": _row("xlnet", "XLNetLMHeadModel", "XLNetConfig", TEXT, d_inner=32, ff_activation="relu"),
        "xlm": _row(
            "xlm", "XLMWithLMHeadModel", "XLMConfig", TEXT, emb_dim=16, gelu_activation=False, n_words=VOCABULARY
        ),
        "bert_relu": _row("bert", "BertForMaskedLM", "BertConfig", TEXT, hidden_act="relu"),
        "distilbert_relu": _row(
            "distilbert", "DistilBertForSequenceClassification", "DistilBertConfig", TEXT, activation="relu"
        ),
        "mobilebert": _row(
            "mobilebert",
            "MobileBertForMaskedLM",
            "MobileBertConfig",
            TEXT,
            embedding_size=8,
            true_hidden_size=8,
            intra_bottleneck_size=8,
        ),
        "nystromformer_relu": _row(
            "nystromformer",
            "NystromformerForMaskedLM",
            "NystromformerConfig",
            TEXT,
            hidden_act="relu",
            num_landmarks=4,
            segment_means_seq_len=8,
        ),
        "neomme": _row("neomme", "NeoMMEModel", "NeoMMEConfig", TEXT, head_dim=16),
    }


def _encoder_decoders() -> dict[str, Row]:
    return {
        "t5": _row("t5", "T5ForConditionalGeneration", "T5Config", TEXT_PAIR, **UNFUSED),
        "t5_encoder": _row("t5", "T5EncoderModel", "T5Config", TEXT, **UNFUSED),
        "mt5_relu": _row(
            "mt5", "MT5ForConditionalGeneration", "MT5Config", TEXT_PAIR, feed_forward_proj="relu", **UNFUSED
        ),
        "umt5_relu": _row(
            "umt5", "UMT5ForConditionalGeneration", "UMT5Config", TEXT_PAIR, feed_forward_proj="relu", **UNFUSED
        ),
        "longt5": _row(
            "longt5", "LongT5ForConditionalGeneration", "LongT5Config", TEXT_PAIR, local_radius=2, global_block_size=4
        ),
        "switch_transformers": _row(
            "switch_transformers",
            "SwitchTransformersForConditionalGeneration",
            "SwitchTransformersConfig",
            TEXT_PAIR,
            num_experts=4,
        ),
        "udop": _row(
            "udop",
            "UdopForConditionalGeneration",
            "UdopConfig",
            {**TEXT_PAIR, "bbox": uniform(8, 4)},
            max_2d_position_embeddings=32,
            image_size=32,
            patch_size=16,
        ),
        "m2m_100": _row("m2m_100", "M2M100ForConditionalGeneration", "M2M100Config", TEXT_PAIR),
        "nllb_moe": _row("nllb_moe", "NllbMoeForConditionalGeneration", "NllbMoeConfig", TEXT_PAIR, num_experts=4),
        "fsmt": _row(
            "fsmt",
            "FSMTForConditionalGeneration",
            "FSMTConfig",
            TEXT_PAIR,
            langs=["en", "de"],
            src_vocab_size=VOCABULARY,
            tgt_vocab_size=VOCABULARY,
        ),
        "bart_relu": _row("bart", "BartForConditionalGeneration", "BartConfig", TEXT_PAIR, activation_function="relu"),
        "marian_relu": _row(
            "marian",
            "MarianMTModel",
            "MarianConfig",
            TEXT_PAIR,
            activation_function="relu",
            decoder_vocab_size=VOCABULARY,
        ),
        "pegasus_relu": _row(
            "pegasus", "PegasusForConditionalGeneration", "PegasusConfig", TEXT_PAIR, activation_function="relu"
        ),
        "seamless_m4t": _row(
            "seamless_m4t",
            "SeamlessM4TForTextToText",
            "SeamlessM4TConfig",
            TEXT_PAIR,
            t2u_vocab_size=VOCABULARY,
            speech_encoder_layers=1,
            speech_encoder_attention_heads=2,
            speech_encoder_intermediate_size=32,
        ),
    }


def _vision() -> dict[str, Row]:
    return {
        "resnet": _row("resnet", "ResNetForImageClassification", "ResNetConfig", IMAGE, **RESNET),
        "resnet_basic": _row("resnet", "ResNetModel", "ResNetConfig", IMAGE, layer_type="basic", **RESNET),
        "regnet": _row(
            "regnet",
            "RegNetForImageClassification",
            "RegNetConfig",
            IMAGE,
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 2, 1],
            groups_width=4,
        ),
        "bit": _row(
            "bit",
            "BitForImageClassification",
            "BitConfig",
            IMAGE,
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            num_groups=2,
        ),
        "mobilenet_v1": _row(
            "mobilenet_v1", "MobileNetV1ForImageClassification", "MobileNetV1Config", IMAGE, depth_multiplier=0.25
        ),
        "mobilenet_v2": _row(
            "mobilenet_v2", "MobileNetV2ForImageClassification", "MobileNetV2Config", IMAGE, depth_multiplier=0.35
        ),
        "deeplabv3_mobilenet_v2": _row(
            "mobilenet_v2", "MobileNetV2ForSemanticSegmentation", "MobileNetV2Config", IMAGE, depth_multiplier=0.35
        ),
        "hgnet_v2": _row(
            "hgnet_v2",
            "HGNetV2ForImageClassification",
            "HGNetV2Config",
            LARGER_IMAGE,
            embedding_size=8,
            hidden_sizes=[16, 16, 32, 32],
            stem_channels=[3, 8, 8],
            stage_in_channels=[8, 16, 16, 32],
            stage_mid_channels=[8, 8, 16, 16],
            stage_out_channels=[16, 16, 32, 32],
            stage_num_blocks=[1, 1, 1, 1],
            stage_numb_of_layers=[2, 2, 2, 2],
        ),
        "textnet": _row(
            "textnet",
            "TextNetForImageClassification",
            "TextNetConfig",
            LARGER_IMAGE,
            stem_out_channels=8,
            hidden_sizes=[8, 8, 8, 16, 16],
        ),
        "pp_lcnet": _row("pp_lcnet", "PPLCNetForImageClassification", "PPLCNetConfig", LARGER_IMAGE),
        "pvt_v2_linear": _row(
            "pvt_v2",
            "PvtV2ForImageClassification",
            "PvtV2Config",
            LARGER_IMAGE,
            image_size=64,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
            linear_attention=True,
        ),
        "swinv2": _row(
            "swinv2",
            "Swinv2ForImageClassification",
            "Swinv2Config",
            IMAGE,
            image_size=32,
            patch_size=2,
            window_size=4,
            embed_dim=8,
            depths=[1, 2],
            num_heads=[2, 2],
        ),
        "swiftformer": _row(
            "swiftformer",
            "SwiftFormerForImageClassification",
            "SwiftFormerConfig",
            {"pixel_values": gaussian(3, 64, 64)},
            image_size=64,
            depths=[1, 1, 1, 1],
            embed_dims=[8, 8, 16, 16],
        ),
        "mobilevitv2": _row(
            "mobilevitv2",
            "MobileViTV2ForImageClassification",
            "MobileViTV2Config",
            LARGER_IMAGE,
            image_size=64,
            width_multiplier=0.25,
        ),
        "vit_relu": _row(
            "vit", "ViTForImageClassification", "ViTConfig", IMAGE, image_size=32, patch_size=8, hidden_act="relu"
        ),
        "timesformer_relu": _row(
            "timesformer",
            "TimesformerForVideoClassification",
            "TimesformerConfig",
            {"pixel_values": gaussian(2, 3, 16, 16)},
            image_size=16,
            patch_size=8,
            num_frames=2,
            hidden_act="relu",
        ),
    }


def _detection() -> dict[str, Row]:
    resnet = ("ResNetConfig", {**RESNET, "out_features": ["stage4"]})
    resnet_levels = ("ResNetConfig", {**RESNET, "out_features": ["stage2", "stage3", "stage4"]})
    rt_resnet = (
        "RTDetrResNetConfig",
        {**RESNET, "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"]},
    )
    rt = {
        "backbone_config": rt_resnet,
        "encoder_hidden_dim": 16,
        "encoder_in_channels": [8, 16, 16],
        "decoder_in_channels": [16, 16, 16],
        "feat_strides": [8, 16, 32],
        "num_denoising": 0,
        "num_feature_levels": 3,
        "decoder_n_points": 2,
        "encode_proj_layers": [2],
    }
    return {
        "detr": _row("detr", "DetrForObjectDetection", "DetrConfig", LARGER_IMAGE, backbone_config=resnet),
        "detr_segmentation": _row(
            "detr",
            "DetrForSegmentation",
            "DetrConfig",
            LARGER_IMAGE,
            d_model=64,
            encoder_attention_heads=8,
            decoder_attention_heads=8,
            backbone_config=("ResNetConfig", {**RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]}),
        ),
        "conditional_detr": _row(
            "conditional_detr",
            "ConditionalDetrForObjectDetection",
            "ConditionalDetrConfig",
            LARGER_IMAGE,
            backbone_config=resnet,
        ),
        "table_transformer": _row(
            "table_transformer",
            "TableTransformerForObjectDetection",
            "TableTransformerConfig",
            LARGER_IMAGE,
            backbone_config=resnet,
        ),
        "dab_detr": _row(
            "dab_detr", "DabDetrForObjectDetection", "DabDetrConfig", LARGER_IMAGE, backbone_config=resnet
        ),
        "deformable_detr": _row(
            "deformable_detr",
            "DeformableDetrForObjectDetection",
            "DeformableDetrConfig",
            LARGER_IMAGE,
            backbone_config=resnet_levels,
            d_model=32,
            num_feature_levels=3,
            encoder_n_points=2,
            decoder_n_points=2,
        ),
        "rt_detr": _row("rt_detr", "RTDetrForObjectDetection", "RTDetrConfig", LARGER_IMAGE, **rt),
        "rt_detr_v2": _row("rt_detr_v2", "RTDetrV2ForObjectDetection", "RTDetrV2Config", LARGER_IMAGE, **rt),
        "d_fine": _row(
            "d_fine",
            "DFineForObjectDetection",
            "DFineConfig",
            LARGER_IMAGE,
            **{
                **rt,
                "decoder_n_points": [2, 2, 2],
                "backbone_config": (
                    "HGNetV2Config",
                    {
                        "embedding_size": 8,
                        "hidden_sizes": [16, 16, 32, 32],
                        "stem_channels": [3, 8, 8],
                        "stage_in_channels": [8, 16, 16, 32],
                        "stage_mid_channels": [8, 8, 16, 16],
                        "stage_out_channels": [16, 16, 32, 32],
                        "stage_num_blocks": [1, 1, 1, 1],
                        "stage_numb_of_layers": [2, 2, 2, 2],
                        "out_features": ["stage2", "stage3", "stage4"],
                    },
                ),
                "encoder_in_channels": [16, 32, 32],
            },
        ),
        "yolos": _row(
            "yolos",
            "YolosForObjectDetection",
            "YolosConfig",
            IMAGE,
            image_size=[32, 32],
            patch_size=8,
            num_detection_tokens=4,
        ),
        "grounding_dino": _row(
            "grounding_dino",
            "GroundingDinoForObjectDetection",
            "GroundingDinoConfig",
            {**LARGER_IMAGE, **TEXT},
            backbone_config=resnet_levels,
            text_config=("BertConfig", {}),
            d_model=32,
            num_feature_levels=3,
            encoder_n_points=2,
            decoder_n_points=2,
            max_text_len=16,
        ),
        "maskformer": _row(
            "maskformer",
            "MaskFormerForInstanceSegmentation",
            "MaskFormerConfig",
            LARGER_IMAGE,
            backbone_config=("ResNetConfig", {**RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]}),
            decoder_config=("DetrConfig", {"d_model": 32}),
            fpn_feature_size=32,
            mask_feature_size=32,
        ),
        "mask2former": _row(
            "mask2former",
            "Mask2FormerForUniversalSegmentation",
            "Mask2FormerConfig",
            LARGER_IMAGE,
            backbone_config=("ResNetConfig", {**RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]}),
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_layers=1,
            decoder_layers=3,
        ),
    }


def _dense_vision() -> dict[str, Row]:
    small_vit = {"image_size": 32, "patch_size": 8}
    return {
        "segformer": _row(
            "segformer",
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            LARGER_IMAGE,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=16,
        ),
        "beit_segmentation": _row(
            "beit",
            "BeitForSemanticSegmentation",
            "BeitConfig",
            IMAGE,
            num_hidden_layers=4,
            out_indices=[1, 2, 3, 4],
            **small_vit,
        ),
        "data2vec_segmentation": _row(
            "data2vec_vision",
            "Data2VecVisionForSemanticSegmentation",
            "Data2VecVisionConfig",
            IMAGE,
            num_hidden_layers=4,
            out_indices=[1, 2, 3, 4],
            **small_vit,
        ),
        "upernet": _row(
            "upernet",
            "UperNetForSemanticSegmentation",
            "UperNetConfig",
            LARGER_IMAGE,
            backbone_config=("ResNetConfig", {**RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]}),
            auxiliary_channels=8,
        ),
        "dpt": _row(
            "dpt",
            "DPTForDepthEstimation",
            "DPTConfig",
            IMAGE,
            num_hidden_layers=4,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=8,
            **small_vit,
        ),
        "dpt_segmentation": _row(
            "dpt",
            "DPTForSemanticSegmentation",
            "DPTConfig",
            IMAGE,
            num_hidden_layers=4,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=8,
            use_batch_norm_in_fusion_residual=True,
            **small_vit,
        ),
        "depth_anything": _row(
            "depth_anything",
            "DepthAnythingForDepthEstimation",
            "DepthAnythingConfig",
            {"pixel_values": gaussian(3, 28, 28)},
            backbone_config=(
                "Dinov2Config",
                {
                    "image_size": 28,
                    "patch_size": 14,
                    "num_hidden_layers": 4,
                    "out_indices": [1, 2, 3, 4],
                    "reshape_hidden_states": False,
                },
            ),
            reassemble_hidden_size=16,
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=8,
            head_hidden_size=8,
            patch_size=14,
        ),
        "glpn": _row(
            "glpn",
            "GLPNForDepthEstimation",
            "GLPNConfig",
            LARGER_IMAGE,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=8,
        ),
        "vitmatte": _row(
            "vitmatte",
            "VitMatteForImageMatting",
            "VitMatteConfig",
            {"pixel_values": gaussian(4, 32, 32)},
            backbone_config=(
                "VitDetConfig",
                {"image_size": 32, "patch_size": 16, "num_channels": 4, "out_features": ["stage2"]},
            ),
            hidden_size=16,
            convstream_hidden_sizes=[8, 8, 8],
            fusion_hidden_sizes=[16, 8, 8, 8],
        ),
        "swin2sr": _row(
            "swin2sr",
            "Swin2SRForImageSuperResolution",
            "Swin2SRConfig",
            {"pixel_values": gaussian(3, 16, 16)},
            image_size=16,
            embed_dim=8,
            depths=[1, 1],
            num_heads=[2, 2],
            window_size=4,
        ),
        "superpoint": _row(
            "superpoint",
            "SuperPointForKeypointDetection",
            "SuperPointConfig",
            LARGER_IMAGE,
            encoder_hidden_sizes=[8, 8, 16, 16],
            decoder_hidden_size=16,
            descriptor_decoder_dim=16,
        ),
        "sam": _row(
            "sam",
            "SamModel",
            "SamConfig",
            {"pixel_values": gaussian(3, 32, 32), "input_points": uniform(1, 1, 2)},
            vision_config=(
                "SamVisionConfig",
                {
                    "image_size": 32,
                    "patch_size": 8,
                    "output_channels": 16,
                    "window_size": 2,
                    "global_attn_indexes": [1],
                    "num_pos_feats": 8,
                    "mlp_dim": 32,
                },
            ),
            prompt_encoder_config=("SamPromptEncoderConfig", {"image_size": 32, "patch_size": 8}),
            mask_decoder_config=("SamMaskDecoderConfig", {"mlp_dim": 32, "iou_head_hidden_dim": 16}),
        ),
        "vitpose": _row(
            "vitpose",
            "VitPoseForPoseEstimation",
            "VitPoseConfig",
            IMAGE,
            backbone_config=(
                "VitPoseBackboneConfig",
                {"image_size": [32, 32], "patch_size": [8, 8], "out_indices": [2]},
            ),
            num_labels=5,
            use_simple_decoder=True,
        ),
        "vitpose_deconvolution": _row(
            "vitpose",
            "VitPoseForPoseEstimation",
            "VitPoseConfig",
            IMAGE,
            backbone_config=(
                "VitPoseBackboneConfig",
                {"image_size": [32, 32], "patch_size": [8, 8], "out_indices": [2]},
            ),
            num_labels=5,
            use_simple_decoder=False,
        ),
        "clipseg": _row(
            "clipseg",
            "CLIPSegForImageSegmentation",
            "CLIPSegConfig",
            {**TEXT, "pixel_values": gaussian(3, 32, 32)},
            text_config=("CLIPSegTextConfig", {}),
            vision_config=("CLIPSegVisionConfig", small_vit),
            extract_layers=[0, 1],
            reduce_dim=8,
            decoder_intermediate_size=16,
            decoder_num_attention_heads=2,
            projection_dim=16,
            conditional_layer=0,
        ),
    }


def _audio() -> dict[str, Row]:
    return {
        "wav2vec2": _row("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", SOUND, **CONVOLVED_SPEECH),
        "wav2vec2_layer_norm": _row(
            "wav2vec2",
            "Wav2Vec2Model",
            "Wav2Vec2Config",
            SOUND,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            **CONVOLVED_SPEECH,
        ),
        "wav2vec2_conformer": _row(
            "wav2vec2_conformer", "Wav2Vec2ConformerForCTC", "Wav2Vec2ConformerConfig", SOUND, **CONVOLVED_SPEECH
        ),
        "wav2vec2_bert": _row(
            "wav2vec2_bert",
            "Wav2Vec2BertForCTC",
            "Wav2Vec2BertConfig",
            {"input_features": gaussian(20, 16)},
            feature_projection_input_dim=16,
            add_adapter=True,
            num_adapter_layers=1,
            hidden_act="relu",
            output_hidden_size=16,
        ),
        "wav2vec2_xvector": _row(
            "wav2vec2",
            "Wav2Vec2ForXVector",
            "Wav2Vec2Config",
            SOUND,
            tdnn_dim=[16, 16],
            tdnn_kernel=[3, 3],
            tdnn_dilation=[1, 1],
            xvector_output_dim=16,
            **CONVOLVED_SPEECH,
        ),
        "hubert": _row("hubert", "HubertForCTC", "HubertConfig", SOUND, **CONVOLVED_SPEECH),
        "wavlm": _row("wavlm", "WavLMForSequenceClassification", "WavLMConfig", SOUND, **CONVOLVED_SPEECH),
        "unispeech": _row("unispeech", "UniSpeechForCTC", "UniSpeechConfig", SOUND, **CONVOLVED_SPEECH),
        "sew": _row("sew", "SEWForCTC", "SEWConfig", SOUND, **CONVOLVED_SPEECH),
        "data2vec_audio": _row(
            "data2vec_audio",
            "Data2VecAudioForCTC",
            "Data2VecAudioConfig",
            SOUND,
            **{**CONVOLVED_SPEECH, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3},
        ),
        "speech_to_text": _row(
            "speech_to_text",
            "Speech2TextForConditionalGeneration",
            "Speech2TextConfig",
            {"input_features": gaussian(24, 16), "decoder_input_ids": tokens(VOCABULARY, 6)},
            input_feat_per_channel=16,
            conv_channels=16,
            max_source_positions=64,
            max_target_positions=32,
        ),
        "speecht5": _row(
            "speecht5",
            "SpeechT5ForSpeechToText",
            "SpeechT5Config",
            {**SOUND, "decoder_input_ids": tokens(VOCABULARY, 6)},
            **{**CONVOLVED_SPEECH, "num_feat_extract_layers": 3},
            max_speech_positions=64,
            max_text_positions=32,
        ),
        "parakeet": _row(
            "parakeet",
            "ParakeetForCTC",
            "ParakeetCTCConfig",
            {"input_features": gaussian(64, 16)},
            encoder_config={
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "subsampling_conv_channels": 8,
                "num_mel_bins": 16,
                "conv_kernel_size": 3,
            },
        ),
        "whisper_relu": _row(
            "whisper",
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            {"input_features": gaussian(16, 32), "decoder_input_ids": tokens(VOCABULARY, 6)},
            num_mel_bins=16,
            max_source_positions=16,
            max_target_positions=16,
            activation_function="relu",
        ),
        "fastspeech2_conformer": _row(
            "fastspeech2_conformer",
            "FastSpeech2ConformerModel",
            "FastSpeech2ConformerConfig",
            TEXT,
            num_mel_bins=8,
            encoder_linear_units=16,
            decoder_linear_units=16,
            speech_decoder_postnet_units=8,
            duration_predictor_channels=8,
            energy_predictor_channels=8,
            pitch_predictor_channels=8,
            encoder_kernel_size=3,
            decoder_kernel_size=3,
        ),
        "clap_text": _row("clap", "ClapTextModelWithProjection", "ClapTextConfig", TEXT, projection_dim=16),
        "vits": _row(
            "vits",
            "VitsModel",
            "VitsConfig",
            TEXT,
            flow_size=16,
            spectrogram_bins=9,
            upsample_initial_channel=16,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 3]],
            depth_separable_num_layers=1,
            duration_predictor_filter_channels=16,
            posterior_encoder_num_wavenet_layers=1,
            prior_encoder_num_wavenet_layers=1,
        ),
    }


def _other() -> dict[str, Row]:
    return {
        "decision_transformer": _row(
            "decision_transformer",
            "DecisionTransformerModel",
            "DecisionTransformerConfig",
            {
                "states": gaussian(4, 6),
                "actions": gaussian(4, 2),
                "returns_to_go": gaussian(4, 1),
                "timesteps": counting(4),
                "attention_mask": ones(4),
            },
            state_dim=6,
            act_dim=2,
            max_ep_len=16,
        ),
        "patchtst_relu": _row(
            "patchtst",
            "PatchTSTForPrediction",
            "PatchTSTConfig",
            {"past_values": gaussian(32, 2)},
            num_input_channels=2,
            context_length=32,
            patch_length=8,
            patch_stride=8,
            prediction_length=4,
            activation_function="relu",
        ),
        "timesfm": _row(
            "timesfm",
            "TimesFmModel",
            "TimesFmConfig",
            {
                "past_values": gaussian(64),
                "past_values_padding": lambda number, _: torch.zeros(number, 64),
                "freq": lambda number, _: torch.zeros(number, 1, dtype=torch.long),
            },
            patch_length=32,
            context_length=64,
            horizon_length=16,
        ),
        "informer_relu": _row(
            "informer",
            "InformerModel",
            "InformerConfig",
            {
                "past_values": gaussian(23),
                "past_time_features": gaussian(23, 1),
                "past_observed_mask": lambda number, _: torch.ones(number, 23),
                "future_values": gaussian(4),
                "future_time_features": gaussian(4, 1),
            },
            prediction_length=4,
            context_length=16,
            num_time_features=1,
            lags_sequence=[1, 2, 3, 4, 5, 6, 7],
            activation_function="relu",
        ),
    }
