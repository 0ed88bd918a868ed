"""COCO scores of boxes and masks, by pycocotools; during training by hotcoco, which gives the same."""
