"""The steps of a retraining, each a command: `python -m ci.<step>` in the root of a clone. docs/retraining.md."""
