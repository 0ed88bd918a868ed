"""The steps of a retraining in CI.

Each module with a `main` is a step: `python -m ci.<step>` in the root of a clone. `.github/workflows/retrain.yml` and
`ci/gitlab.yml` call the steps. A step writes its results to the folder `.retrain/`, where later steps read them
(`ci.steps` names the files). A retraining begins with a pushed commit. It ends with a commit of the new results on the
branch `retrain/<branch>`, a comment that compares the new model with the base (the model of the pushed commit), and a
verdict of the gate.

Start with `ci.plan` (which stages will run), then `ci.deliver` (what leaves the machine) and `ci.push` (which branch
gets the result). docs/retraining.md is the guide for users.
"""
