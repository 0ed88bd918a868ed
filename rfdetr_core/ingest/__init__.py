"""Reads a dataset in its original format (COCO or YOLO), checks it, and writes manifests and canonical annotations.

In: the dataset folder (`data.dir`) and the section `validate` of params.yaml. Out: findings (code, severity, place,
advice), statistics, the manifest of every split, and canonical COCO annotations. The stages `validate` and `convert`
call `validate.validate_dataset` and `convert.convert_dataset`; start reading there. Both run `clean.clean`. A reader in
`formats/` gives records with their places, `rules.py` has every kind of finding, and `clean` applies the checks and
leaves out unusable images and objects. `survey.py` decodes the images in worker processes and caches the results.
Nothing here imports torch.
"""
