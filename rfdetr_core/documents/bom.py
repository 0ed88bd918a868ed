"""The document bom.cdx.json: the bill of materials of a model in CycloneDX 1.6, with datasets, parents and packages.

The format: https://cyclonedx.org/docs/1.6/json. cyclonedx-python-lib writes everything but the model card, for which it
has no classes. Facts without a CycloneDX field are in properties whose names begin with `rfdetr:`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.exceptions import InvalidSpdxLicenseException
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Commit, Component, ComponentScope, ComponentType, Pedigree
from cyclonedx.model.license import License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from rfdetr_core.base import files
from rfdetr_core.base.provenance import flattened
from rfdetr_core.checkpoint.files import MODEL_FIELDS
from rfdetr_core.documents.facts import ASKED, LOCK, MOST, PROVIDER, Facts, Split
from rfdetr_core.documents.limits import limits
from rfdetr_core.documents.locks import Package, locked_packages
from rfdetr_core.documents.parents import ancestors
from rfdetr_core.documents.tables import METRICS, PER_SLICE

_MODEL, _CODE, _PYTHON = "model", "code", "package/python"
_SCORES = [name for name in METRICS if name != "threshold"]
_PER_CLASS = {"ap": "map", "ap_50": "map_50", "precision": "precision", "recall": "recall", "f1": "f1"}
_PROVIDER = f"{PROVIDER}."


def bom(facts: Facts) -> str:
    """The JSON text of the document. Equal facts give equal bytes, including the serial number."""
    model, code = _model(facts), _code(facts)
    datasets = [_dataset(split) for split in facts.splits.values()]
    parents = [*_parents(facts, "weights")]
    packages = [*_packages(facts)]
    document = Bom(components=[*datasets, *parents, code, *packages])
    document.metadata.component = model
    document.register_dependency(model, [*datasets, *parents, code])
    document.register_dependency(code, packages)
    content = json.loads(make_outputter(document, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    content["metadata"]["component"]["modelCard"] = _model_card(facts)
    # The library adds the time of writing and a random serial number.
    del content["metadata"]["timestamp"], content["serialNumber"]
    serial = uuid5(NAMESPACE_URL, f"urn:rfdetr-dvc:bom:{files.digest(content)}").urn
    leading_keys = ("$schema", "bomFormat", "specVersion")
    return files.json_text({**{key: content[key] for key in leading_keys}, "serialNumber": serial, **content})


def _model(facts: Facts) -> Component:
    digests = [*facts.digests.values()]
    lineage, exported = facts.lineage, facts.exported
    ancestors = [*_parents(facts, "ancestor")]
    if exported:
        ancestors.append(_weights("ancestor/exported", "checkpoint", exported.description.source))
    file_digests = {f"sha256:{name}": digest for name, digest in facts.digests.items()} if len(digests) > 1 else {}
    return Component(
        name=str(lineage["variant"] or "RF-DETR"),
        version=lineage["tensors"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_MODEL,
        hashes=_hashes(digests[:1]),
        pedigree=Pedigree(ancestors=ancestors) if ancestors else None,
        properties=_properties(
            file=facts.place,
            **file_digests,
            **{"tensors:sha256": lineage["tensors"], "params:sha256": files.digest(facts.training["params"])},
            record=facts.record,
            vouched=facts.confirmed_by,
            **{
                "training:ended": (facts.history_facts.metadata if facts.history_facts and facts.confirmed else {}).get(
                    "finishedOn"
                )
            },
            **_export_properties(facts),
        ),
    )


def _export_properties(facts: Facts) -> dict[str, Any]:
    """Properties of an exported file. The scores in the model card are those of its source checkpoint."""
    if facts.exported is None:
        return {}
    about = facts.exported.description
    scored = f"the checkpoint with SHA-256 {about.source}, not this file" if facts.evaluation else None
    parity = {f"parity:{name}": value for name, value in flattened(about.parity).items()}
    return {"format": facts.exported.format, "precision": about.precision, "scores:of": scored, **parity}


def _dataset(split: Split) -> Component:
    """A split with the digests of its files and the Merkle roots over its images."""
    roots = {f"merkle:{tree}": f"{root['root']} (of {root['size']})" for tree, root in sorted(split.roots.items())}
    return Component(
        name=split.name,
        version=split.digests.get(f"manifest/{split.name}.json"),
        type=ComponentType.DATA,
        bom_ref=f"dataset/{split.name}",
        description=", ".join(split.uses),
        licenses=map(_licence, split.values("licence")),
        components=[
            Component(
                name=path, type=ComponentType.FILE, bom_ref=f"dataset/{split.name}/{path}", hashes=_hashes([digest])
            )
            for path, digest in sorted(split.digests.items())
        ],
        properties=_properties(
            images=split.images,
            objects=split.objects,
            **roots,
            **{f"objects:{name}": count for name, count in (split.classes or {}).items()},
            **{column: [*_value_counts(split, column)] for column in ASKED},
        ),
    )


def _value_counts(split: Split, column: str) -> Iterator[str]:
    """The most frequent values of a metadata column, each with its number of images.

    If images have no value, a request to the provider is added.
    """
    images = split.values(column)
    yield from (f"{value} ({count} images)" for value, count in [*images.items()][:MOST])
    if len(images) > MOST:
        yield f"{len(images) - MOST} other values"
    if lacking := split.without(column):
        yield f"{_PROVIDER} ({lacking} images have no {column}.)" if images else _PROVIDER


def _licence(text: str) -> License:
    """A licence by its SPDX identifier if it is one, else by its name."""
    try:
        return LicenseFactory().make_with_id(text)
    except InvalidSpdxLicenseException:
        return LicenseFactory().make_with_name(text)


def _parents(facts: Facts, prefix: str) -> Iterator[Component]:
    """The weights that the training started from. prefix: the prefix of their BOM references."""
    for key, parent in sorted(facts.training["parents"].items()):
        below = ancestors({"parents": {key: parent}})
        data = [
            f"{split} ({counts['images']} images), ancestor of generation {ancestor.steps}, "
            f"SHA-256 of the manifest: {manifest}"
            for ancestor in below
            for split, counts, manifest in ancestor.splits()
        ]
        properties = {"tensors:sha256": parent.get("tensors"), "data": data}
        yield _weights(f"{prefix}/{key}", parent["name"], parent["sha256"], **properties)


def _weights(reference: str, name: str, sha256: str, **properties: Any) -> Component:
    return Component(
        name=name, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=reference, hashes=_hashes([sha256]),
        properties=_properties(**properties),
    )  # fmt: skip


def _code(facts: Facts) -> Component:
    """The code: the commit that added the model, and the digest of the modules that its stages imported."""
    commit = facts.commit.id if facts.commit else None
    address = quote(facts.address or "", safe=":/@%~[]")
    url = [ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(address))] if address else []
    modules = facts.training["code"] | facts.lineage["code"]
    return Component(
        name="rfdetr-dvc",
        version=commit,
        type=ComponentType.APPLICATION,
        bom_ref=_CODE,
        external_references=url,
        pedigree=Pedigree(commits=[Commit(uid=commit)]) if commit else None,
        properties=_properties(
            modules=len(modules),
            **{"modules:sha256": files.digest(modules), "run:parent_commit": facts.run.get("parent_commit")},
            commit=None if commit else f"no known commit (source: {facts.confirmed_by})",
        ),
    )


def _packages(facts: Facts) -> Iterator[Component]:
    """Python, the packages that influence the weights with their recorded versions, and the other locked packages."""
    versions = dict(facts.packages)
    lock = facts.training.get("lock")
    locked = locked_packages(facts)
    yield Component(
        name="python", version=versions.pop("python", None), type=ComponentType.PLATFORM, bom_ref=_PYTHON,
        properties=_properties(lock=LOCK if lock else None, **{"lock:sha256": lock},
                               **{"lock:found": ("no" if locked is None else "yes") if lock else None}),
    )  # fmt: skip
    recorded: dict[str, str] = {canonicalize_name(name): name for name in versions}
    for key in sorted({*recorded, *(locked or {})}):
        lines = (locked or {}).get(key, [])
        if key in recorded:
            name = recorded[key]
            yield _package(name, versions[name], lines, f"package/{name}", influences_weights=True)
        else:
            several = sorted({line.version for line in lines})
            for version in several:
                reference = f"package/{key}" if len(several) == 1 else f"package/{key}/{version}"
                yield _package(key, version, lines, reference, influences_weights=False)


def _package(
    name: str, version: str, lines: Iterable[Package], reference: str, *, influences_weights: bool
) -> Component:
    """A package of this version. lines: the lock's lines for this package; those of other versions are ignored."""
    purl = PackageURL("pypi", name=name, version=version)
    of_this = [line for line in lines if line.version == version]
    markers = sorted({line.marker for line in of_this if line.marker})
    # A package whose lines all have a marker is not installed on every system. Only the record shows whether it was
    # installed for the training.
    optional = not influences_weights and all(line.marker for line in of_this)
    # A package has a file for each system, so each hash is that of one file.
    distribution = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        comment="SHA-256 of each file that the lock allows",
        hashes=_hashes(sorted({digest for line in of_this for digest in line.hashes})),
    )
    return Component(
        name=name, version=version, type=ComponentType.LIBRARY, bom_ref=reference, purl=purl,
        scope=ComponentScope.OPTIONAL if optional else ComponentScope.REQUIRED,
        external_references=[distribution] if of_this else [],
        properties=_properties(
            version="recorded by the training" if influences_weights else "from the lock", marker=markers
        ),
    )  # fmt: skip


def _model_card(facts: Facts) -> dict[str, Any]:
    config = facts.checkpoint.model_config
    segments = bool(config.get("segmentation_head"))
    shape = {f"architecture:{key}": config[key] for key in ("encoder", *MODEL_FIELDS) if key in config}
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "instance segmentation" if segments else "object detection",
            "architectureFamily": "RF-DETR",
            "modelArchitecture": str(facts.lineage["variant"] or "RF-DETR"),
            "datasets": [{"ref": f"dataset/{name}"} for name in facts.splits],
            "inputs": [{"format": _input(facts)}],
            "outputs": [{"format": _output(facts)}],
        },
        "quantitativeAnalysis": {"performanceMetrics": [*_metrics(facts)]},
        "considerations": {"useCases": [_PROVIDER], "technicalLimitations": [*limits(facts), *facts.notes]},
        "properties": [
            {"name": entry.name, "value": entry.value} for entry in _properties(classes=facts.class_names, **shape)
        ],
    }


def _input(facts: Facts) -> str:
    channels = facts.checkpoint.model_config.get("num_channels", 3)
    image = "RGB image" if channels == 3 else f"image of {channels} channels"
    return f"{image}, {facts.exported.description.images} values" if facts.exported else image


def _output(facts: Facts) -> str:
    masks = ", masks" * bool(facts.checkpoint.model_config.get("segmentation_head"))
    if facts.exported and not facts.exported.description.postprocess:
        return f"of each query: box (centre, width, height, from 0 to 1) and logits of the classes{masks}"
    return f"boxes (x, y, x, y in pixels), scores and classes{masks}"


def _metrics(facts: Facts) -> Iterator[dict[str, Any]]:
    """The scores with their intervals, then the scores of classes and of slices."""
    evaluation = facts.evaluation
    if evaluation is None:
        return
    for kind, metrics in evaluation.kinds.items():
        ends = evaluation.intervals.get(kind, {})
        for name in _SCORES:
            yield from _metric(kind, name, metrics.get(name), f"split: {evaluation.split}", ends.get(name))
        prefix = "mask_" if kind == "masks" else ""
        for row in evaluation.classes:
            for column, name in _PER_CLASS.items():
                yield from _metric(kind, name, row.get(f"{prefix}{column}"), f"class: {row['class']}")
        for row in evaluation.slices.get(kind, []):
            for name in PER_SLICE:
                yield from _metric(kind, name, row.get(name), f"{row['slice']}: {row['value']}")


def _metric(
    kind: str, name: str, value: float | None, part: str, ends: list[float | None] | None = None
) -> Iterator[dict[str, Any]]:
    if value is None:
        return
    metric: dict[str, Any] = {"type": f"{kind}: {name}", "value": repr(float(value)), "slice": part}
    if ends and None not in ends:
        metric["confidenceInterval"] = dict(zip(("lowerBound", "upperBound"), map(repr, ends), strict=True))
    yield metric


def _hashes(digests: Iterable[str]) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in digests]


def _properties(**values: Any) -> list[Property]:
    """A property for each value, and for each item of a list. None gives no property."""
    pairs = ((name, item) for name, value in values.items() for item in (value if isinstance(value, list) else [value]))
    return [Property(name=f"rfdetr:{name}", value=str(value)) for name, value in pairs if value is not None]
