"""The public names, for editors and mypy. Written by `python -m rfdetr_core.config.reference`."""

from rfdetr_core.api.custom import RFDETRDataModule as RFDETRDataModule
from rfdetr_core.api.custom import RFDETRModelModule as RFDETRModelModule
from rfdetr_core.api.custom import build_trainer as build_trainer
from rfdetr_core.api.model import RFDETR as RFDETR
from rfdetr_core.api.model import from_checkpoint as from_checkpoint
from rfdetr_core.api.model import load as load
from rfdetr_core.checkpoint.loading import COCO_CLASS_NAMES as COCO_CLASS_NAMES
from rfdetr_core.checkpoint.loading import COCO_CLASSES as COCO_CLASSES
from rfdetr_core.report.training import plot_metrics as plot_metrics

__all__ = [
    "COCO_CLASSES",
    "COCO_CLASS_NAMES",
    "RFDETR",
    "RFDETRBase",
    "RFDETRDataModule",
    "RFDETRLarge",
    "RFDETRLargeDeprecated",
    "RFDETRMedium",
    "RFDETRModelModule",
    "RFDETRNano",
    "RFDETRPico",
    "RFDETRSeg2XLarge",
    "RFDETRSegLarge",
    "RFDETRSegMedium",
    "RFDETRSegNano",
    "RFDETRSegPico",
    "RFDETRSegPreview",
    "RFDETRSegSmall",
    "RFDETRSegXLarge",
    "RFDETRSmall",
    "build_trainer",
    "from_checkpoint",
    "load",
    "plot_metrics",
]

class RFDETRNano(RFDETR):
    """RF-DETR nano: 384 pixels, weights rf-detr-nano.pth."""

class RFDETRSmall(RFDETR):
    """RF-DETR small: 512 pixels, weights rf-detr-small.pth."""

class RFDETRMedium(RFDETR):
    """RF-DETR medium: 576 pixels, weights rf-detr-medium.pth."""

class RFDETRLarge(RFDETR):
    """RF-DETR large: 704 pixels, weights rf-detr-large-2026.pth."""

class RFDETRBase(RFDETR):
    """RF-DETR base: 560 pixels, weights rf-detr-base.pth."""

class RFDETRLargeDeprecated(RFDETR):
    """RF-DETR large-deprecated: 560 pixels, weights rf-detr-large.pth."""

class RFDETRSegPreview(RFDETR):
    """RF-DETR seg-preview: 432 pixels, weights rf-detr-seg-preview.pt."""

class RFDETRSegNano(RFDETR):
    """RF-DETR seg-nano: 312 pixels, weights rf-detr-seg-nano.pt."""

class RFDETRSegSmall(RFDETR):
    """RF-DETR seg-small: 384 pixels, weights rf-detr-seg-small.pt."""

class RFDETRSegMedium(RFDETR):
    """RF-DETR seg-medium: 432 pixels, weights rf-detr-seg-medium.pt."""

class RFDETRSegLarge(RFDETR):
    """RF-DETR seg-large: 504 pixels, weights rf-detr-seg-large.pt."""

class RFDETRSegXLarge(RFDETR):
    """RF-DETR seg-xlarge: 624 pixels, weights rf-detr-seg-xlarge.pt."""

class RFDETRSeg2XLarge(RFDETR):
    """RF-DETR seg-2xlarge: 768 pixels, weights rf-detr-seg-xxlarge.pt."""

class RFDETRPico(RFDETR):
    """RF-DETR pico: 256 pixels, no published weights."""

class RFDETRSegPico(RFDETR):
    """RF-DETR seg-pico: 192 pixels, no published weights."""
