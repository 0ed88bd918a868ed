"""The result, judged on images it was not trained on: numbers, tables, curves, pictures."""
