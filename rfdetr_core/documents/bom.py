"""The bill of materials of a model in the format of CycloneDX 1.6: model, datasets, parents, packages and code.

The format: https://cyclonedx.org/docs/1.6/json. cyclonedx-python-lib writes all but the model card, which it has no
classes for. What this project says in its own words is in properties whose names begin with `rfdetr:`.
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
    """The JSON text of the document; equal facts make equal bytes, the serial number included."""
    model, code = _model(facts), _code(facts)
    datasets = [_dataset(split) for split in facts.splits.values()]
    parents = [*_parents(facts, "weights")]
    packages = [*_packages(facts)]
    made = Bom(components=[*datasets, *parents, code, *packages])
    made.metadata.component = model
    made.register_dependency(model, [*datasets, *parents, code])
    made.register_dependency(code, packages)
    content = json.loads(make_outputter(made, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    content["metadata"]["component"]["modelCard"] = _model_card(facts)
    # The library puts in the time of writing and a random number.
    del content["metadata"]["timestamp"], content["serialNumber"]
    serial = uuid5(NAMESPACE_URL, f"urn:rfdetr-dvc:bom:{files.digest(content)}").urn
    first = ("$schema", "bomFormat", "specVersion")
    return files.json_text({**{key: content[key] for key in first}, "serialNumber": serial, **content})


def _model(facts: Facts) -> Component:
    digests = [*facts.digests.values()]
    lineage, exported = facts.lineage, facts.exported
    ancestors = [*_parents(facts, "ancestor")]
    if exported:
        ancestors.append(_weights("ancestor/exported", "checkpoint", exported.description.source))
    more = {f"sha256:{name}": digest for name, digest in facts.digests.items()} if len(digests) > 1 else {}
    return Component(
        name=str(lineage["variant"] or "RF-DETR"),
        version=lineage["tensors"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_MODEL,
        hashes=_hashes(digests[:1]),
        pedigree=Pedigree(ancestors=ancestors) if ancestors else None,
        properties=_properties(
            file=facts.place,
            **more,
            **{"tensors:sha256": lineage["tensors"], "params:sha256": files.digest(facts.training["params"])},
            record=facts.record,
            vouched=facts.confirmed_by,
            **{
                "training:ended": (facts.history_facts.metadata if facts.history_facts and facts.confirmed else {}).get(
                    "finishedOn"
                )
            },
            **_of_exported(facts),
        ),
    )


def _of_exported(facts: Facts) -> dict[str, Any]:
    """What is known of an exported file beside its checkpoint, whose scores the model card has."""
    if facts.exported is None:
        return {}
    about = facts.exported.description
    scored = f"the checkpoint with SHA-256 {about.source}, not this file" if facts.evaluation else None
    parity = {f"parity:{name}": value for name, value in flattened(about.parity).items()}
    return {"format": facts.exported.format, "precision": about.precision, "scores:of": scored, **parity}


def _dataset(split: Split) -> Component:
    """A split, by the digests of its files and the Merkle roots over its images."""
    roots = {f"merkle:{tree}": f"{one['root']} (of {one['size']})" for tree, one in sorted(split.roots.items())}
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
            **{column: [*_counted(split, column)] for column in ASKED},
        ),
    )


def _counted(split: Split, column: str) -> Iterator[str]:
    """The most frequent values of a column of the metadata, each with its number of images; and who is asked for the
    rest."""
    images = split.values(column)
    yield from (f"{value} ({count} images)" for value, count in [*images.items()][:MOST])
    if len(images) > MOST:
        yield f"{len(images) - MOST} other values"
    if lacking := split.without(column):
        yield f"{_PROVIDER} ({lacking} images have none.)" if images else _PROVIDER


def _licence(text: str) -> License:
    """A licence by its SPDX identifier, else by its name."""
    try:
        return LicenseFactory().make_with_id(text)
    except InvalidSpdxLicenseException:
        return LicenseFactory().make_with_name(text)


def _parents(facts: Facts, place: str) -> Iterator[Component]:
    """The weights that the training started from. place: what their references begin with."""
    for key, parent in sorted(facts.training["parents"].items()):
        below = ancestors({"parents": {key: parent}})
        data = [
            f"{split} ({counts['images']} images), {one.steps} trainings back, SHA-256 of the manifest: {manifest}"
            for one in below
            for split, counts, manifest in one.splits()
        ]
        properties = {"tensors:sha256": parent.get("tensors"), "data": data}
        yield _weights(f"{place}/{key}", parent["name"], parent["sha256"], **properties)


def _weights(reference: str, name: str, sha256: str, **properties: Any) -> Component:
    return Component(
        name=name, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=reference, hashes=_hashes([sha256]),
        properties=_properties(**properties),
    )  # fmt: skip


def _code(facts: Facts) -> Component:
    """The code: the commit that brought the model, and the digest of the modules that its making imported."""
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
            commit=None if commit else f"not known (vouched for by {facts.confirmed_by})",
        ),
    )


def _packages(facts: Facts) -> Iterator[Component]:
    """Python, the packages that decided the weights as the record has them, and the others of the recorded lock."""
    versions = dict(facts.packages)
    lock = facts.training.get("lock")
    known = locked_packages(facts)
    yield Component(
        name="python", version=versions.pop("python", None), type=ComponentType.PLATFORM, bom_ref=_PYTHON,
        properties=_properties(lock=LOCK if lock else None, **{"lock:sha256": lock},
                               **{"lock:found": ("no" if known is None else "yes") if lock else None}),
    )  # fmt: skip
    recorded: dict[str, str] = {canonicalize_name(name): name for name in versions}
    for key in sorted({*recorded, *(known or {})}):
        lines = (known or {}).get(key, [])
        if key in recorded:
            name = recorded[key]
            yield _package(name, versions[name], lines, f"package/{name}", decided=True)
        else:
            several = sorted({one.version for one in lines})
            for version in several:
                reference = f"package/{key}" if len(several) == 1 else f"package/{key}/{version}"
                yield _package(key, version, lines, reference, decided=False)


def _package(name: str, version: str, lines: Iterable[Package], reference: str, *, decided: bool) -> Component:
    """A package of this version; lines: those of the lock about it, of which those of other versions do not count."""
    purl = PackageURL("pypi", name=name, version=version)
    of_this = [one for one in lines if one.version == version]
    markers = sorted({one.marker for one in of_this if one.marker})
    # Where a marker does not hold, the package is not installed: of such a one only the record says that it was.
    optional = not decided and all(one.marker for one in of_this)
    # A package is several files, one for each system: none of the hashes is that of the package.
    distribution = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        comment="SHA-256 of each file that the lock allows",
        hashes=_hashes(sorted({one for line in of_this for one in line.hashes})),
    )
    return Component(
        name=name, version=version, type=ComponentType.LIBRARY, bom_ref=reference, purl=purl,
        scope=ComponentScope.OPTIONAL if optional else ComponentScope.REQUIRED,
        external_references=[distribution] if of_this else [],
        properties=_properties(version="recorded by the training" if decided else "of the lock", marker=markers),
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
            {"name": one.name, "value": one.value} for one in _properties(classes=facts.class_names, **shape)
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
    """The scores with their intervals, then those of classes and of other parts of the split."""
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
    return [HashType(alg=HashAlgorithm.SHA_256, content=one) for one in digests]


def _properties(**values: Any) -> list[Property]:
    """Properties of these names; without a value none, of a list one for each of its values."""
    pairs = ((name, one) for name, value in values.items() for one in (value if isinstance(value, list) else [value]))
    return [Property(name=f"rfdetr:{name}", value=str(value)) for name, value in pairs if value is not None]
