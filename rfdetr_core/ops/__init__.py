"""Pure functions of tensors, and the dataclasses of tensors that packages exchange.

`boxes` converts box formats and computes IoU. `sampling` has bilinear sampling and resizing with deterministic
gradients. `structures` has `Target` (ground truth of an image), `DetectorOutput` (raw output of a batch) and
`Detections` (result of an image). Model, losses, metrics, data and inference use this package; it does not import any
of them. Start with `structures`.
"""
