"""Model files. In a file, weights have upstream's names and layout; in memory, this project's names.

`files` reads a checkpoint into a `Checkpoint` and writes one. `loading` builds a detector from it, or puts its weights
into another detector. `archive` checks that a file contains no code before it is read. `keys` translates the names of
weights. `published` downloads upstream's published weights with `download`. `exported` reads .onnx and .xml files, and
`schema` has the types and limits of every field that is read. Training, evaluation, prediction, export and audit call
this package. Start with `files.Checkpoint` and `loading.build_from_checkpoint`.
"""
