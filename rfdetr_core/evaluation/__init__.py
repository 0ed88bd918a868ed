"""Evaluates a trained model on images that it was not trained on: scores, tables, curves and pictures.

In: a predictor, and a split of the dataset (annotations/ and manifest/). Out: metrics.json, detections.json, tables as
CSV and pictures in reports/evaluate/. The stage `evaluate` and the commands `evaluate`, `predict` and `compare` call
this package; `report` makes pages of its results.

Start reading in evaluate.py, then scoring.py. analysis.py matches detections with objects as tables; slices.py,
operating.py (thresholds, calibration), resampling.py (intervals), suspects.py and comparison.py build on it.
"""
