"""What the support table leaves out or lists as refused without building it: no towers, by family."""

from __future__ import annotations

TRANSFORMERS_REFUSED = {
    "found a convolutional network.": (
        "AlignModel BitBackbone BitForImageClassification BitModel ConvNextBackbone "
        "ConvNextForImageClassification ConvNextModel ConvNextV2Backbone ConvNextV2ForImageClassification "
        "ConvNextV2Model DINOv3ConvNextBackbone DINOv3ConvNextModel EfficientNetForImageClassification "
        "EfficientNetModel FocalNetBackbone FocalNetForImageClassification FocalNetForMaskedImageModeling "
        "FocalNetModel HGNetV2Backbone HGNetV2ForImageClassification MobileNetV1ForImageClassification "
        "MobileNetV1Model MobileNetV2ForImageClassification MobileNetV2Model PPLCNetBackbone "
        "PPLCNetForImageClassification PPLCNetV3Backbone PPLCNetV4Backbone PoolFormerForImageClassification "
        "PoolFormerModel RTDetrResNetBackbone RegNetForImageClassification RegNetModel ResNetBackbone "
        "ResNetForImageClassification ResNetModel TextNetBackbone TextNetForImageClassification UVDocBackbone"
    ),
    "found a hierarchy, whose blocks stand in several places.": (
        "CvtForImageClassification DinatBackbone DinatForImageClassification DinatModel "
        "DonutSwinForImageClassification GLPNModel HieraBackbone HieraForImageClassification HieraModel "
        "LevitForImageClassification LevitForImageClassificationWithTeacher LevitModel "
        "MaskFormerSwinBackbone "
        "MobileViTForImageClassification MobileViTModel MobileViTV2ForImageClassification MobileViTV2Model "
        "PvtForImageClassification PvtModel PvtV2Backbone PvtV2ForImageClassification "
        "SegformerForImageClassification SegformerModel SwiftFormerForImageClassification SwiftFormerModel "
        "Swin2SRModel SwinBackbone SwinForImageClassification SwinForMaskedImageModeling SwinModel "
        "Swinv2Backbone Swinv2ForImageClassification Swinv2ForMaskedImageModeling Swinv2Model"
    ),
    "found a detector, with queries beside the patches.": (
        "ConditionalDetrModel DabDetrModel DeformableDetrModel DetrModel TableTransformerModel YolosModel"
    ),
    "found tokens in windows, or of patches that overlap.": (
        "LwDetrViTBackbone RfDetrDinov2Backbone VitDetBackbone VitDetModel VitPoseBackbone"
    ),
    "found a model of videos.": (
        "TimesformerModel VideoMAEModel VideoPrismClipModel VideoPrismVisionModel VivitModel"
    ),
    "found a model that takes more than pictures, or tokens that are no patches.": (
        "Blip2ForImageTextRetrieval Cohere2VisionModel ImageGPTForImageClassification ImageGPTModel "
        "Llama4VisionModel MllamaVisionModel PerceiverForImageClassificationConvProcessing "
        "PerceiverForImageClassificationFourier PerceiverForImageClassificationLearned "
        "ShieldGemma2ForImageClassification Tipsv2Model"
    ),
    "found two towers: pass the one you mean.": "DepthProModel",
    "found a model of timm inside, which is read as timm's.": (
        "TimmBackbone TimmWrapperForImageClassification TimmWrapperModel"
    ),
}
"""For each reason the classes of transformers that its automatic classes list and vitreg does not read."""

SMALL_ONES = (
    *("ConvNextModel", "MobileNetV2Model", "LevitModel", "VitDetModel"),
    *("VitPoseBackbone", "TimesformerModel", "VideoMAEModel", "ImageGPTModel", "MllamaVisionModel"),
)
"""For each kind of reason those that are small enough to be tried in a test."""

TIMM_WITHOUT_ATTENTION = {
    **dict.fromkeys(
        [
            "convmixer",
            "convnext",
            "cspnet",
            "cspnext",
            "densenet",
            "dla",
            "dpn",
            "efficientnet",
            "efficientvim",
            "fasternet",
            "focalnet",
            "ghostnet",
            "hardcorenas",
            "hgnet",
            "hrnet",
            "inception_next",
            "inception_resnet_v2",
            "inception_v3",
            "inception_v4",
            "lcnetv2",
            "mambaout",
            "mlp_mixer",
            "nasnet",
            "nfnet",
            "pnasnet",
            "rdnet",
            "regnet",
            "repghost",
            "repvit",
            "res2net",
            "resnest",
            "resnet",
            "resnetv2",
            "rexnet",
            "selecsls",
            "senet",
            "sequencer",
            "sknet",
            "starnet",
            "tresnet",
            "vgg",
            "vovnet",
            "xception",
            "xception_aligned",
        ],
        ("*",),
    ),
    "byobnet": (
        *(
            "bat_*",
            "eca_*",
            "gc*",
            "gernet_*",
            "mobileone_*",
            "nf_*",
            "regnetz_*",
            "repvgg_*",
            "resnet[3-6]?ts",
            "resnet[56]1q",
            "resnet50_mlp",
            "resnet*_clip_gap",
        ),
        *("seresnet*", "resnext26ts", "seresnext26ts", "test_byobnet"),
    ),
    "byoanet": ("lambda_*",),
    "metaformer": ("convformer_*", "poolformer*"),
    "fastvit": ("fastvit_s12", "fastvit_t*"),
    "mobilenetv3": ("fbnetv3_*", "lcnet_*", "mobilenetv3_*", "mobilenetv4_conv_*", "tf_mobilenetv3_*"),
    "lowformer": ("lowformer_e[12]",),
}
"""For each file of timm its models without attention between tokens, which the table leaves out."""


def refusals() -> dict[str, str]:
    """Return the reason for each class of transformers that is refused."""
    return {name: why for why, names in TRANSFORMERS_REFUSED.items() for name in names.split()}
