"""The public names, for editors and mypy. Written by `python -m rfdetr_core.config.reference`."""

from typing import Unpack

from rfdetr_core.api.configs import ScriptTrainConfig as SegmentationTrainConfig
from rfdetr_core.api.configs import ScriptTrainConfig as TrainConfig
from rfdetr_core.api.configs import VariantConfig as ModelConfig
from rfdetr_core.api.keywords import ModelKeywords

__all__ = [
    "ModelConfig",
    "RFDETRBaseConfig",
    "RFDETRLargeConfig",
    "RFDETRLargeDeprecatedConfig",
    "RFDETRMediumConfig",
    "RFDETRNanoConfig",
    "RFDETRPicoConfig",
    "RFDETRSeg2XLargeConfig",
    "RFDETRSegLargeConfig",
    "RFDETRSegMediumConfig",
    "RFDETRSegNanoConfig",
    "RFDETRSegPicoConfig",
    "RFDETRSegPreviewConfig",
    "RFDETRSegSmallConfig",
    "RFDETRSegXLargeConfig",
    "RFDETRSmallConfig",
    "SegmentationTrainConfig",
    "TrainConfig",
]

class RFDETRNanoConfig(ModelConfig):
    """The config of RFDETRNano."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRSmallConfig(ModelConfig):
    """The config of RFDETRSmall."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRMediumConfig(ModelConfig):
    """The config of RFDETRMedium."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRLargeConfig(ModelConfig):
    """The config of RFDETRLarge."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRBaseConfig(ModelConfig):
    """The config of RFDETRBase."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRLargeDeprecatedConfig(ModelConfig):
    """The config of RFDETRLargeDeprecated."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRSegPreviewConfig(ModelConfig):
    """The config of RFDETRSegPreview."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRSegNanoConfig(ModelConfig):
    """The config of RFDETRSegNano."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRSegSmallConfig(ModelConfig):
    """The config of RFDETRSegSmall."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRSegMediumConfig(ModelConfig):
    """The config of RFDETRSegMedium."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRSegLargeConfig(ModelConfig):
    """The config of RFDETRSegLarge."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRSegXLargeConfig(ModelConfig):
    """The config of RFDETRSegXLarge."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRSeg2XLargeConfig(ModelConfig):
    """The config of RFDETRSeg2XLarge."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRPicoConfig(ModelConfig):
    """The config of RFDETRPico."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...

class RFDETRSegPicoConfig(ModelConfig):
    """The config of RFDETRSegPico."""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...
