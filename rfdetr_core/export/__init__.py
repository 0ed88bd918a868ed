"""Exports models to other runtimes, and converts datasets to other formats.

Models: `run.export_stage` is the stage export. It writes the chosen checkpoint as ONNX, OpenVINO or int8 ONNX files.
`parity.py` compares each file with the checkpoint. A file is kept only if it agrees; the measured differences go into
export.json and into the file. `model.export_model` does the same for `RFDETR.export` of the Python API. `graph.py` has
the graphs; `onnx_file.py`, `openvino_file.py` and `quantise.py` write the formats.

Datasets: `dataset.export_dataset` converts between YOLO and COCO, for the command `export`. Start reading in `run.py`
or `dataset.py`.
"""
