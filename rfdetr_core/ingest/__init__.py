"""Reading and checking a dataset: from its files as their owner keeps them to the manifest and canonical annotations.

What comes in: the dataset folder (`data.dir`) and the section `validate` of params.yaml. What goes out: findings (code,
severity, place, advice), statistics, the manifest of every split, and canonical COCO annotations. The stages `validate`
and `convert` call `validate.validate_dataset` and `convert.convert_dataset`; start reading there. Both run
`clean.clean`: a reader in `formats/` gives records with their places, `rules.py` has every kind of finding, and `clean`
applies the checks and leaves out what cannot be used. `survey.py` decodes the images in worker processes and caches the
results. Nothing here imports torch.
"""
