"""Train on a dataset, plot the result, load and evaluate it, resume the training, and start a second one.

python examples/fine_tune.py data/sample runs/first
"""

import sys
from pathlib import Path

from rfdetr_core import RFDETRPico, from_checkpoint, plot_metrics

dataset, output = sys.argv[1], Path(sys.argv[2])
settings = {"dataset_dir": dataset, "batch_size": 4, "lr": 5e-4}

# Pico is small enough for a CPU and has no published weights. RFDETRNano starts from weights trained on COCO.
model = RFDETRPico(resolution=96)
model.train(**settings, output_dir=output, epochs=1)
plot_metrics(output, output / "history.png")

# Load the best checkpoint. You can also do this later, in another script.
model = from_checkpoint(output / "checkpoint_best_total.pth")
scores = model.evaluate(dataset_dir=dataset, output_dir=output)
print(f"AP50 on test: {scores['test/mAP_50']:.3f}. The report and its pictures: {output}/evaluate/")

# Resume the same training: one more epoch.
model.train(**settings, output_dir=output, epochs=2, resume=output / "checkpoint.pth")

# Start a new training from the best weights.
model = from_checkpoint(output / "checkpoint_best_total.pth")
model.train(**settings, output_dir=f"{output}-second", epochs=1)
