"""The functions that all other packages use. This package does not import any of them.

Files and digests: `files` reads and writes files atomically, `git` runs git, `merkle` builds Merkle trees over the
images of a split, and `code` makes the digests of the source files that a stage runs. Formats: `params` reads a section
of params.yaml into a frozen config, `schema` checks JSON that anyone may have written, `manifest` and `metadata` hold
the rows of a split, and `images` decodes image files. Output: `errors.UserError` is the exception whose message is
meant for the user, and `printing` prints it. Environment: `environment` describes the machine, its variables and edited
packages, `provenance` has digests of files and versions of packages for records, and `processes` handles signals and
child processes.
Start with `errors`, `files` and `params`.
"""
