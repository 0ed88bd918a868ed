"""The whole of params.yaml: checked, documented, and previewed."""
