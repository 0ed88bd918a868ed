"""Predicts: the input is images, the output is detections in pixels.

`predictor.Predictor` runs a checkpoint. `exported.ExportedPredictor` runs a .onnx or .xml file through `sessions`.
`exported.load_predictor` chooses between them by the file's name. Both take paths, https addresses (`addresses`), PIL
images, arrays and tensors (`conversion`), and load them in threads (`prefetch`). `optimised` makes a faster copy of a
detector, `thresholds` reads thresholds.json, `arguments` checks upstream's arguments, and `benchmark` measures model
files. The command line, the Python API and the evaluation call this package. Start with `predictor.BasePredictor`.
"""
