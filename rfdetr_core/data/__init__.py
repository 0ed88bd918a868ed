"""The data of training and evaluation: reads images and annotations, augments them, and makes batches.

`samples` joins the annotations of a split with its manifest. `dataset` reads an image, checks its digest, decodes it,
applies `augmentation` and gives a tensor with its target. `batching` collates items, orders the images of an epoch and
resizes batches for multi-scale training. `datamodule` makes the loaders for Lightning. `preprocess` has the resize and
the normalisation that training, validation and prediction have in common. All random numbers come from `seeding`. They
depend only on seed, epoch and image, so the number of workers does not change a batch. Start with
`dataset.DetectionDataset`.
"""
