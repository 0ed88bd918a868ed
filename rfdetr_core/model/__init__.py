"""The RF-DETR network.

Input: normalised images (B, 3, H, W). Output: a `DetectorOutput` with class logits, boxes and, for segmenters, masks of
each query. The parts, in the order of computation:
- vit.py, the encoder (a windowed vision transformer), computes maps of the image.
- projector.py converts the maps to the width of the decoder.
- proposals.py chooses the tokens that look most like objects.
- decoder.py, with deformable.py, refines a query for each proposal.
- segmentation.py computes the masks.
- postprocess.py turns an output into detections in pixels.

config.py has the sizes of all variants and the section `model` of params.yaml. Start reading with
`Detector.forward` in detector.py. Training, evaluation, prediction and export build the network by `build_detector`.
"""
