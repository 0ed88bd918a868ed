"""The functions that all other packages use. This package does not import any of them.

Files and digests: `files` reads and writes files atomically, `git` runs git, `merkle` makes digests of sets, and `code`
makes the digests of the source files that a stage runs. Formats: `params` reads a section of params.yaml into a frozen
config, `schema` checks JSON that anyone may have written, `manifest` and `metadata` hold the rows of a split, `images`
decodes image files. Output: `errors.UserError` is the exception whose message is meant for the user, and `printing`
prints it. Environment: `environment`, `provenance` and `processes` describe the machine, its packages and its signals.
Start with `errors`, `files` and `params`.
"""
