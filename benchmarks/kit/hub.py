"""Tiny models of KerasHub: backbones and tasks, each from its constructor's arguments."""

from collections.abc import Callable
from typing import Any

import keras_hub
from keras_hub import layers, models
from keras_hub.src.models.rqvae.rqvae_backbone import RQVAEBackbone
from keras_hub.src.models.vae.vae_backbone import VAEBackbone

# The argument sets that several families share.
TEXT = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "max_sequence_length": 12,
}
ENCODER = {name: value for name, value in TEXT.items() if name != "max_sequence_length"}
GROUPED = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
}
EXPERTS = {**GROUPED, "num_experts": 4, "top_k": 2}
VIT = {"image_shape": (28, 28, 3), "patch_size": 4, "num_layers": 2, "hidden_dim": 24}
DINO = {
    "num_layers": 2,
    "hidden_dim": 16,
    "num_heads": 2,
    "intermediate_dim": 64,
    "layer_scale_init_value": 1.0,
    "num_register_tokens": 4,
}
CSP = {
    "stem_filters": 16,
    "stem_kernel_size": 3,
    "stem_strides": 1,
    "stackwise_strides": 2,
    "stackwise_depth": [1, 2, 2],
    "stackwise_num_filters": [16, 24, 32],
    "image_shape": (None, None, 3),
    "down_growth": True,
    "bottle_ratio": (0.5, 1.0),
    "block_ratio": (1.0, 0.5),
    "expand_ratio": (2.0, 1.0),
    "block_type": "dark_block",
    "stage_type": "csp",
    "stem_padding": "same",
}
HYBRID = {
    **GROUPED,
    "num_layers": 4,
    "head_dim": 8,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "partial_rotary_factor": 0.25,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "linear_conv_kernel_dim": 4,
}
MIT = {
    "layerwise_depths": [2, 2],
    "image_shape": (32, 32, 3),
    "hidden_dims": [8, 16],
    "num_layers": 2,
    "layerwise_num_heads": [1, 2],
    "layerwise_sr_ratios": [8, 4],
    "max_drop_path_rate": 0.1,
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
}
ENCODER_DECODER = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {
        "hidden_dim": 32,
        "intermediate_dim": 64,
        "num_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }.items()
} | {
    "vocabulary_size": 50,
    "dropout_rate": 0.1,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 1.0,
    "attention_bias": False,
    "hidden_activation": "gelu_approximate",
    "sliding_window": 16,
    "cross_attention_hidden_size": 32,
    "attn_logit_softcapping": 50.0,
    "rope_max_wavelength": 10000.0,
    "initializer_range": 0.04,
    "attention_dropout": 0.1,
}


def _resnet(block: str = "basic_block", filters: Any = (64, 64), **more: Any) -> Any:
    return models.ResNetBackbone(
        **{
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": list(filters),
            "stackwise_num_blocks": [2] * len(filters),
            "stackwise_num_strides": [1, 2, 2, 2][: len(filters)],
            "block_type": block,
            **more,
        }
    )


def _mobilenet(squeeze: float | None = 0.5) -> Any:
    return models.MobileNetBackbone(
        stackwise_expansion=[[20, 28], [32, 40, 40]],
        stackwise_num_blocks=[2, 3],
        stackwise_num_filters=[[16, 16], [24, 24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish"] * 3, ["hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2, 2]],
        output_num_filters=64,
        input_activation="hard_swish",
        output_activation="hard_swish",
        input_num_filters=16,
        image_shape=(32, 32, 3),
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=squeeze,
        last_layer_filter=64,
    )


def _efficientnet(**more: Any) -> Any:
    return models.EfficientNetBackbone(
        **{
            "stackwise_kernel_sizes": [3, 3, 3],
            "stackwise_num_repeats": [1, 2, 2],
            "stackwise_input_filters": [16, 16, 24],
            "stackwise_output_filters": [16, 24, 32],
            "stackwise_expansion_ratios": [1, 4, 4],
            "stackwise_squeeze_and_excite_ratios": [0.0, 0.0, 0.25],
            "stackwise_strides": [1, 2, 2],
            "stackwise_block_types": ["fused", "fused", "unfused"],
            "stackwise_force_input_filters": [0] * 3,
            "stackwise_nores_option": [False] * 3,
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
            **more,
        }
    )


def _hgnet() -> Any:
    return models.HGNetV2Backbone(
        embedding_size=16,
        stem_channels=[3, 8, 16],
        hidden_act="relu",
        use_learnable_affine_block=True,
        image_shape=(32, 32, 3),
        depths=[1, 1],
        hidden_sizes=[32, 48],
        stackwise_stage_filters=[[16, 8, 32, 1, 1, 3], [32, 16, 48, 1, 1, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, True],
        out_features=["stem", "stage1", "stage2"],
    )


def _vae() -> Any:
    return VAEBackbone(
        [32, 32], [1, 1], [32, 32], [1, 1], sampler_method="mode", image_shape=(32, 32, 3)
    )


def _vision_language(vision: str, text: str, backbone: str, projection: int | None) -> Any:
    return getattr(models, backbone)(
        vision_encoder=getattr(models, vision)(
            16, 32, 2, 2, 64, image_shape=(32, 32, 3), name="vision_encoder"
        ),
        text_encoder=getattr(models, text)(
            50, 32, 32, 2, 2, 64, max_sequence_length=12, name="text_encoder"
        ),
        **({} if projection is None else {"projection_dim": projection}),
    )


def _blip2() -> Any:
    return models.BLIP2Backbone(
        vision_encoder=models.BLIP2VisionEncoder(
            image_size=32,
            patch_size=4,
            num_layers=2,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=16,
            use_patch_bias=True,
            use_class_token=True,
            use_mha_bias=True,
            use_mlp_bias=True,
            dropout_rate=0.0,
            layer_norm_epsilon=1e-6,
            initializer_range=0.02,
            dtype="float32",
        ),
        qformer=models.BLIP2QFormer(
            num_query_tokens=2,
            num_layers=2,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=16,
            vision_dim=8,
            cross_attention_frequency=1,
            dropout=0.0,
            layer_norm_epsilon=1e-6,
            dtype="float32",
        ),
        language_model=models.BLIP2CustomOPT(
            vocabulary_size=50,
            num_layers=2,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=16,
            num_query_tokens=2,
            qformer_hidden_dim=8,
            max_sequence_length=20,
            dropout=0.0,
            language_projection=None,
            dtype="float32",
        ),
    )


def _sam() -> Any:
    return models.SAMBackbone(
        image_encoder=_vit_det(hidden_size=16, num_heads=4, num_output_channels=8, patch_size=16),
        prompt_encoder=layers.SAMPromptEncoder(
            hidden_size=8,
            image_embedding_size=(1, 1),
            input_image_size=(16, 16),
            mask_in_channels=16,
        ),
        mask_decoder=layers.SAMMaskDecoder(
            num_layers=2,
            hidden_size=16,
            intermediate_dim=32,
            num_heads=8,
            embedding_dim=8,
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=8,
        ),
    )


def _vit_det(**more: Any) -> Any:
    return models.ViTDetBackbone(
        **{
            "image_shape": (16, 16, 3),
            "patch_size": 2,
            "hidden_size": 8,
            "num_layers": 2,
            "global_attention_layer_indices": [1],
            "intermediate_dim": 32,
            "num_heads": 2,
            "num_output_channels": 4,
            "window_size": 2,
            **more,
        }
    )


def _dinov2(**more: Any) -> Any:
    return models.DINOV2Backbone(
        **{**DINO, "patch_size": 14, "use_swiglu_ffn": False, "image_shape": (70, 70, 3), **more}
    )


def _d_fine() -> Any:
    backbone = models.HGNetV2Backbone(
        stem_channels=[3, 8, 8],
        stackwise_stage_filters=[[8, 8, 16, 1, 1, 3], [16, 8, 32, 1, 1, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, False],
        depths=[1, 1],
        hidden_sizes=[16, 32],
        embedding_size=8,
        use_learnable_affine_block=True,
        hidden_act="relu",
        image_shape=(None, None, 3),
        out_features=["stage1", "stage2"],
    )
    return models.DFineBackbone(
        backbone=backbone,
        decoder_in_channels=[16, 16],
        encoder_hidden_dim=16,
        num_denoising=0,
        num_labels=4,
        hidden_dim=16,
        learn_initial_query=False,
        num_queries=10,
        anchor_image_size=(32, 32),
        feat_strides=[4, 8],
        num_feature_levels=2,
        encoder_in_channels=[16, 32],
        encode_proj_layers=[1],
        num_attention_heads=2,
        encoder_ffn_dim=32,
        num_encoder_layers=1,
        hidden_expansion=0.5,
        depth_multiplier=0.5,
        eval_idx=-1,
        num_decoder_layers=3,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        decoder_n_points=[2, 2],
        lqe_hidden_dim=16,
        num_lqe_layers=2,
        out_features=["stage1", "stage2"],
        image_shape=(None, None, 3),
        seed=0,
    )


def _parseq() -> Any:
    encoder = models.ViTBackbone(
        image_shape=(32, 128, 3),
        patch_size=(4, 8),
        num_layers=2,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=64,
        use_class_token=False,
        name="image_encoder",
    )
    return models.PARSeqBackbone(
        image_encoder=encoder,
        vocabulary_size=50,
        max_label_length=25,
        decoder_hidden_dim=32,
        num_decoder_layers=1,
        num_decoder_heads=2,
        decoder_mlp_dim=64,
        dropout_rate=0.0,
        attention_dropout=0.0,
    )


def _stable_diffusion_3() -> Any:
    clip = {
        "vocabulary_size": 50,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_output_index": -2,
    }
    return models.StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=32,
        mmdit_num_layers=2,
        mmdit_num_heads=2,
        mmdit_position_size=192,
        mmdit_qk_norm=None,
        mmdit_dual_attention_indices=None,
        vae=VAEBackbone([32] * 4, [1] * 4, [32] * 4, [1] * 4, sampler_method="mode"),
        clip_l=models.CLIPTextEncoder(
            **clip, embedding_dim=32, hidden_dim=32, intermediate_dim=64, name="clip_l"
        ),
        clip_g=models.CLIPTextEncoder(
            **clip, embedding_dim=64, hidden_dim=64, intermediate_dim=128, name="clip_g"
        ),
        image_shape=(64, 64, 3),
    )


def _text(name: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(models, f"{name}Backbone")(**{**TEXT, **more})


def _encoder(name: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(models, f"{name}Backbone")(**{**ENCODER, **more})


def _grouped(name: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(models, f"{name}Backbone")(**{**GROUPED, **more})


def _plain(name: str, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: getattr(models, f"{name}Backbone")(*args, **kwargs)


GEMMA3 = {
    **GROUPED,
    "num_layers": 6,
    "image_size": 16,
    "head_dim": 4,
    "use_sliding_window_attention": True,
    "sliding_window_size": 16,
}
SMOLLM3 = {
    **{name: GROUPED[name] for name in ("vocabulary_size", "num_layers", "num_key_value_heads")},
    "hidden_dim": 32,
    "intermediate_dim": 64,
    "num_attention_heads": 4,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_layer_enabled_list": [True, True],
    "layer_types": ["attention", "attention"],
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
}
GEMMA3N = {
    "text_vocab_size": 50,
    "text_hidden_size": 8,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "intermediate_size": [16, 16],
    "hidden_activation": "gelu_approximate",
    "layer_types": ["full_attention"] * 2,
    "sliding_window": 4,
    "rope_theta": 10000.0,
    "max_position_embeddings": 16,
    "vocab_size_per_layer_input": 50,
    "hidden_size_per_layer_input": 2,
    "altup_num_inputs": 2,
    "laurel_rank": 2,
}
MOBILENETV5 = {
    "stackwise_block_types": [["er"], ["uir", "uir"]],
    "stackwise_num_blocks": [1, 2],
    "stackwise_num_filters": [[24], [32, 32]],
    "stackwise_strides": [[2], [2, 1]],
    "stackwise_act_layers": [["relu"], ["relu", "relu"]],
    "stackwise_exp_ratios": [[4.0], [3.0, 3.0]],
    "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
    "stackwise_dw_kernel_sizes": [[0], [5, 5]],
    "stackwise_dw_start_kernel_sizes": [[0], [0, 0]],
    "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
    "stackwise_exp_kernel_sizes": [[3], [0, 0]],
    "stackwise_pw_kernel_sizes": [[1], [0, 0]],
    "stackwise_num_heads": [[0], [0, 0]],
    "stackwise_key_dims": [[0], [0, 0]],
    "stackwise_value_dims": [[0], [0, 0]],
    "stackwise_kv_strides": [[0], [0, 0]],
    "stackwise_use_cpe": [[False], [False, False]],
    "image_shape": (32, 32, 3),
    "stem_size": 16,
    "use_msfa": False,
}

BACKBONES: dict[str, Callable[[], Any]] = {
    "bert": _text("Bert"),
    "albert": _text("Albert", num_groups=1, num_inner_repetitions=1, embedding_dim=16),
    "roberta": _text("Roberta"),
    "distil_bert": _text("DistilBert"),
    "deberta_v3": _text("DebertaV3"),
    "xlm_roberta": _text("XLMRoberta"),
    "electra": lambda: models.ElectraBackbone(
        **{k: v for k, v in TEXT.items() if k != "vocabulary_size"}, vocab_size=50, embedding_dim=8
    ),
    "f_net": lambda: models.FNetBackbone(**{k: v for k, v in TEXT.items() if k != "num_heads"}),
    "gpt2": _text("GPT2"),
    "gpt_neo_x": _text("GPTNeoX"),
    "opt": _text("OPT"),
    "bart": _text("Bart"),
    "bloom": _encoder("Bloom"),
    "t5": _encoder("T5"),
    "esm": _encoder("ESM"),
    "xlnet": _encoder("XLNet"),
    "roformer_v2": _encoder("RoformerV2", head_size=8),
    "falcon": lambda: models.FalconBackbone(
        **{k: v for k, v in ENCODER.items() if k != "num_heads"}, num_attention_heads=2
    ),
    "edrec": _plain(
        "EdRec",
        vocab_size=50,
        num_layers_enc=2,
        num_layers_dec=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        dropout=0.0,
    ),
    "whisper": lambda: models.WhisperBackbone(
        **ENCODER, max_encoder_sequence_length=12, max_decoder_sequence_length=12
    ),
    "moonshine": _plain(
        "Moonshine",
        vocabulary_size=50,
        filter_dim=32,
        encoder_num_layers=2,
        decoder_num_layers=2,
        hidden_dim=32,
        intermediate_dim=64,
        encoder_num_heads=4,
        decoder_num_heads=4,
        max_position_embeddings=64,
    ),
    "llama": _grouped("Llama"),
    "llama3": _grouped("Llama3"),
    "mistral": _grouped("Mistral", sliding_window=4),
    "mixtral": lambda: models.MixtralBackbone(**EXPERTS, sliding_window=4),
    "gemma": _grouped("Gemma", head_dim=4),
    "gemma2": _grouped(
        "Gemma",
        head_dim=4,
        sliding_window_size=5,
        attention_logit_soft_cap=50,
        final_logit_soft_cap=30,
        query_head_dim_normalize=False,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        use_sliding_window_attention=True,
    ),
    "gemma3:text": _plain(
        "Gemma3",
        **GEMMA3,
        use_query_key_norm=True,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
    ),
    "gemma4:text": _plain("Gemma4", **GEMMA3),
    "gemma3n:text": _plain("Gemma3n", **GEMMA3N),
    "phi3": _grouped("Phi3"),
    "qwen": _grouped("Qwen"),
    "qwen3": _grouped("Qwen3", head_dim=4),
    "qwen_moe": lambda: models.QwenMoeBackbone(
        **EXPERTS, moe_intermediate_dim=16, shared_expert_intermediate_dim=32
    ),
    "qwen3_moe": lambda: models.Qwen3MoeBackbone(**EXPERTS, head_dim=4, moe_intermediate_dim=16),
    "gpt_oss": lambda: models.GptOssBackbone(**EXPERTS, head_dim=4, sliding_window=4),
    "qwen3_5": _plain("Qwen3_5", **HYBRID),
    "qwen3_5_moe": lambda: models.Qwen3_5MoeBackbone(
        **{k: v for k, v in HYBRID.items() if k != "intermediate_dim"},
        moe_intermediate_dim=8,
        shared_expert_intermediate_size=8,
        num_experts=4,
        top_k=2,
    ),
    "smollm3": _plain("SmolLM3", **SMOLLM3),
    "pali_gemma": _grouped(
        "PaliGemma",
        image_size=16,
        head_dim=4,
        vit_patch_size=4,
        vit_num_layers=2,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_intermediate_dim=16,
    ),
    "t5gemma": _plain("T5Gemma", **ENCODER_DECODER),
    "t5gemma2": _plain("T5Gemma2", **ENCODER_DECODER, use_query_key_norm=True),
    "rwkv7": _plain(
        "RWKV7",
        vocabulary_size=50,
        hidden_size=16,
        num_layers=2,
        head_size=4,
        intermediate_dim=32,
        gate_lora=16,
        mv_lora=8,
        aaa_lora=8,
        decay_lora=8,
    ),
    "vit": _plain("ViT", **VIT, num_heads=2, mlp_dim=48),
    "vit:bias": _plain("ViT", **VIT, num_heads=2, mlp_dim=48, use_mha_bias=True),
    "deit": _plain("DeiT", **VIT, num_heads=2, intermediate_dim=48),
    "vit_det": _vit_det,
    "sam": _sam,
    "clip": lambda: _vision_language("CLIPVisionEncoder", "CLIPTextEncoder", "CLIPBackbone", 32),
    "siglip": lambda: _vision_language(
        "SigLIPVisionEncoder", "SigLIPTextEncoder", "SigLIPBackbone", None
    ),
    "metaclip_2": lambda: _vision_language(
        "MetaCLIP2VisionEncoder", "MetaCLIP2TextEncoder", "MetaCLIP2Backbone", 32
    ),
    "blip2": _blip2,
    "dinov2": _dinov2,
    "dinov2:swiglu": lambda: _dinov2(use_swiglu_ffn=True),
    "dinov3": _plain("DINOV3", **DINO, patch_size=16, image_shape=(64, 64, 3)),
    "dinov3:gated": _plain(
        "DINOV3", **DINO, patch_size=16, image_shape=(64, 64, 3), use_gated_mlp=True
    ),
    "depth_anything": lambda: models.DepthAnythingBackbone(
        image_encoder=models.DINOV2Backbone(
            14, 4, 16, 2, 64, 1.0, 0, image_shape=(126, 126, 3), apply_layernorm=True
        ),
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[8, 16, 16, 32],
        fusion_hidden_dim=32,
        head_hidden_dim=16,
        head_in_index=-1,
        feature_keys=["stage1", "stage2", "stage3", "stage4"],
    ),
    "swin_transformer": _plain(
        "SwinTransformer",
        image_shape=(32, 32, 3),
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
    ),
    "video_prism": _plain(
        "VideoPrism",
        image_shape=(28, 28, 3),
        num_frames=4,
        patch_size=4,
        hidden_dim=16,
        intermediate_dim=32,
        num_heads=2,
        num_spatial_layers=1,
        num_temporal_layers=1,
        num_auxiliary_layers=1,
        vocabulary_size=0,
        num_text_layers=0,
    ),
    "mit": _plain("MiT", **MIT),
    "segformer": lambda: models.SegFormerBackbone(
        image_encoder=models.MiTBackbone(**MIT), projection_filters=32
    ),
    "resnet": _resnet,
    "resnet:bottleneck": lambda: _resnet("bottleneck_block"),
    "resnet:basic_v2": lambda: _resnet(use_pre_activation=True),
    "resnet:bottleneck_v2": lambda: _resnet("bottleneck_block", use_pre_activation=True),
    "resnet:bottleneck_vd": lambda: _resnet(
        "bottleneck_block_vd", input_conv_filters=[8, 8, 64], input_conv_kernel_sizes=[3, 3, 3]
    ),
    "resnet:basic_vd": lambda: _resnet(
        "basic_block_vd", input_conv_filters=[8, 8, 64], input_conv_kernel_sizes=[3, 3, 3]
    ),
    "densenet": _plain(
        "DenseNet",
        stackwise_num_repeats=[2, 2, 2],
        compression_ratio=0.5,
        growth_rate=8,
        image_shape=(32, 32, 3),
    ),
    "vgg": _plain(
        "VGG",
        stackwise_num_repeats=[1, 2, 2],
        stackwise_num_filters=[8, 16, 16],
        image_shape=(16, 16, 3),
    ),
    "xception": _plain(
        "Xception",
        stackwise_conv_filters=[[16, 24], [32, 32], [48, 48]],
        stackwise_pooling=[False, True, False],
        image_shape=(None, None, 3),
    ),
    "mobilenet": _mobilenet,
    "mobilenet:plain": lambda: _mobilenet(squeeze=None),
    "mobilenetv5": _plain("MobileNetV5", **MOBILENETV5),
    "efficientnet": _efficientnet,
    "efficientnet:lite": lambda: _efficientnet(
        stackwise_block_types=["unfused"] * 3, activation="relu6"
    ),
    "cspnet": _plain("CSPNet", **CSP),
    "cspnet:cross": _plain("CSPNet", **{**CSP, "stage_type": "cs3"}),
    "cspnet:edge": _plain("CSPNet", **{**CSP, "block_type": "edge_block"}),
    "hgnetv2": _hgnet,
    "retinanet": lambda: models.RetinaNetBackbone(
        image_encoder=_resnet("bottleneck_block", (64, 32, 32, 32)),
        min_level=3,
        max_level=5,
        use_p5=False,
    ),
    "deeplab_v3": lambda: models.DeepLabV3Backbone(
        image_encoder=_resnet(filters=(64, 32, 32)),
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P4",
        dilation_rates=[6, 12, 18],
        upsampling_size=4,
        image_shape=(96, 96, 3),
    ),
    "basnet": lambda: models.BASNetBackbone(
        image_encoder=_resnet(filters=(64, 128, 256, 512)),
        num_classes=1,
        image_shape=(64, 64, 3),
    ),
    "vae": _vae,
    "flux": _plain(
        "Flux",
        input_channels=16,
        hidden_size=64,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        depth_single_blocks=2,
        axes_dim=[8, 12, 12],
        theta=10_000,
        use_bias=True,
        guidance_embed=True,
        image_shape=(16, 16),
        text_shape=(16, 64),
        image_ids_shape=(16, 3),
        text_ids_shape=(16, 3),
        y_shape=(64,),
    ),
    "stable_diffusion_3": _stable_diffusion_3,
    "parseq": _parseq,
    "d_fine": _d_fine,
    "rqvae": lambda: RQVAEBackbone(
        input_dim=16,
        encoder_layer_dims=[32, 16],
        output_dim=8,
        decoder_layer_dims=[16, 32],
        num_embeddings=4,
        num_quantizers=2,
        decay=0.99,
        data_variance=1.0,
        commitment_cost=0.25,
    ),
}

TASKS: dict[str, Callable[[], Any]] = {
    "bert_text_classifier": lambda: models.BertTextClassifier(_text("Bert")(), num_classes=3),
    "roberta_text_classifier": lambda: models.RobertaTextClassifier(
        _text("Roberta")(), num_classes=3
    ),
    "distil_bert_text_classifier": lambda: models.DistilBertTextClassifier(
        _text("DistilBert")(), num_classes=3
    ),
    "bert_masked_lm": lambda: models.BertMaskedLM(_text("Bert")()),
    "roberta_masked_lm": lambda: models.RobertaMaskedLM(_text("Roberta")()),
    "gpt2_causal_lm": lambda: models.GPT2CausalLM(_text("GPT2")()),
    "llama_causal_lm": lambda: models.LlamaCausalLM(_grouped("Llama")()),
    "mistral_causal_lm": lambda: models.MistralCausalLM(_grouped("Mistral")()),
    "gemma_causal_lm": lambda: models.GemmaCausalLM(_grouped("Gemma", head_dim=4)()),
    "resnet_image_classifier": lambda: models.ResNetImageClassifier(_resnet(), num_classes=5),
    "vit_image_classifier": lambda: models.ViTImageClassifier(BACKBONES["vit"](), num_classes=5),
    "mobilenet_image_classifier": lambda: models.MobileNetImageClassifier(
        _mobilenet(), num_classes=5
    ),
    "efficientnet_image_classifier": lambda: models.EfficientNetImageClassifier(
        _efficientnet(), num_classes=5
    ),
    "segformer_image_segmenter": lambda: models.SegFormerImageSegmenter(
        BACKBONES["segformer"](), num_classes=4
    ),
    "deeplab_v3_segmenter": lambda: models.DeepLabV3ImageSegmenter(
        BACKBONES["deeplab_v3"](), num_classes=4
    ),
}

VERSION = keras_hub.__version__
