"""COCO scores of boxes and masks, computed by pycocotools."""
