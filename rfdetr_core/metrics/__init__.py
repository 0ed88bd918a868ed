"""COCO scores of boxes and masks.

In: canonical annotations, and detections in COCO's results format. Out: `CocoScores`: COCO's twelve numbers, the
highest F1 and its threshold, scores of each class, and which detection matches which object. `coco.score` uses
pycocotools; the stage `evaluate` reports its numbers. `quick.quick_score` gives the same numbers faster, with hotcoco;
training calls it after each epoch. `names` lists the columns of history.csv. Start reading in coco.py.
"""
