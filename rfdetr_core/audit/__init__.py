"""Answers about files, images and models, from the git history alone.

Questions: which run produced a model file, which images it was trained on, which models an image was used for, and how
two models differ. A question names a path, a digest or a condition on metadata. The answer comes from the committed
files (dvc.lock, manifests, records, evaluations) and from the lineage inside the model file. The command `audit` prints
the answers; `verification`, `documents` and `report` use them too.

Start with `history.History`, which reads git, then `trace.trace`, which finds a file in it. `uses` and `selected` go
from images to models, `images` from a model to images, `difference` compares two models, and `text` formats answers.
"""
