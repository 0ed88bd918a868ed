"""COCO scores of boxes and masks, by pycocotools; during training by faster-coco-eval, which gives the same."""
