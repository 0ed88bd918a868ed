"""The RF-DETR network.

Input: normalised images (B, 3, H, W). Output: a `DetectorOutput` with class logits, boxes and, for segmenters, masks of
each query. The parts in their order: vit.py (the encoder, a windowed vision transformer), projector.py (its maps to
the decoder's width), proposals.py (the tokens that look most like objects), decoder.py with deformable.py (refines a
query per proposal), segmentation.py (masks). postprocess.py turns an output into detections in pixels.

config.py has the numbers of all variants and the section `model` of params.yaml. Start reading with
`Detector.forward` in detector.py. Training, evaluation, prediction and export build the network by `build_detector`.
"""
