"""The commands of `python -m rfdetr_core`: one function for each, which takes the parsed arguments.

cli.py defines the arguments and calls the function. The function calls the package that does the work, prints the
answer, and exits with status 1 where the answer is negative or incomplete. `models.py` has the commands that run a
model file, `project.py` those of the project and its datasets, `audit.py` those about lineage. `answers.py` has the
schemas of the JSON answers. Imports are inside the functions, so that `--help` takes milliseconds.
"""
