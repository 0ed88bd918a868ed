"""Facts about the project for its tests: its modules and its stages."""

from __future__ import annotations

import yaml

from rfdetr_core.base.code import ROOT, Code

CODE = Code()
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = list(PIPELINE)  # in the order in which they run
