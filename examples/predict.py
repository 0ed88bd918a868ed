"""Find objects in a photograph with published weights, and save the photograph with the boxes.

python examples/predict.py photo.jpg boxes.jpg
"""

import sys

import supervision as sv
from PIL import Image, ImageOps

from rfdetr_core import RFDETRNano

source, result = sys.argv[1:]

model = RFDETRNano()  # trained on COCO; the weights are downloaded once
image = ImageOps.exif_transpose(Image.open(source)).convert("RGB")
detections = model.predict(image, threshold=0.5)

names, scores = detections.data["class_name"], detections.confidence
labels = [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
print(f"{len(labels)} objects:", *labels)
image = sv.BoxAnnotator().annotate(image, detections)
image = sv.LabelAnnotator().annotate(image, detections, labels)
image.save(result)
