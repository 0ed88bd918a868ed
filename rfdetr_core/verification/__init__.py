"""Verification: compute a project's results again and compare them with what was recorded. Also attestations.

`verify` reads the working tree, dvc.lock, the journal, the records and the lineage in the model files. It returns a
`report.Report`: mismatches, what could not be checked, and notes. The commands `verify`, `plan` and `attest` and the CI
steps in `ci/` call it. Three questions are answered here:

- Did the recorded inputs and code give these results? `verify.py` runs all checks in order; start reading there.
  `reproduce.py` runs the whole pipeline again in a clean clone.
- What will `dvc repro` run, and why? `plan.py`, with `changed.py` for the differences.
- How can a model file be checked without the project? `attest.py` writes and checks signed statements.
"""
