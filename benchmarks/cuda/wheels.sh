#!/bin/sh
# Fetch the wheels that a GPU machine of Python 3.12 with torch lacks into benchmarks/cuda/.wheels, which git ignores.
set -eu
cd "$(dirname "$0")"
rm -rf .wheels
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest .wheels \
    pydantic==2.14.4 pydantic-core==2.50.5 annotated-types typing-inspection typing-extensions \
    ruamel.yaml pycocotools hotcoco supervision defusedxml rfdetr==1.11.2 'pyDeprecate<0.10' \
    torch-hungarian==0.1.0rc0 'vernier>=0.5.3,<0.6' faster-coco-eval 'simplejpeg>=1.9,<2' \
    altair vl-convert-python jsonschema jsonschema-specifications referencing rpds-py
du -sh .wheels
