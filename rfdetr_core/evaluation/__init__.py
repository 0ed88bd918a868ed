"""Evaluates a trained model on a split of the dataset: scores, tables, curves and pictures.

In: a predictor, and a split of the dataset (annotations/ and manifest/). Out: metrics.json, detections.json, tables as
CSV and pictures in reports/evaluate/. The stage `evaluate` and the commands `evaluate`, `predict`, `compare` and
`suspects` call this package; the package `report` makes pages of the results.

Start reading in evaluate.py, then scoring.py. analysis.py matches detections with objects and returns tables. These
tables are the input of slices.py, operating.py (thresholds, calibration), resampling.py (intervals), suspects.py and
comparison.py.
"""
