from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import rfdetr_core
from rfdetr_core import RFDETRPico
from rfdetr_core.base.errors import UserError
from rfdetr_core.config.upstream import API, Row
from rfdetr_core.config.upstream_answers import missing_member, missing_name
from rfdetr_core.config.upstream_modules import INNER


def test_a_row_has_a_path_or_a_reason_and_reads_as_half_a_sentence() -> None:
    for row in (*API, *INNER):
        assert row.owners, row
        assert row.names, row
        assert row.equivalent or row.note, row
        assert "|" not in row.note, row
        assert not row.note.endswith("."), row


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RFDETRXLarge", "not here: it comes from a package with another licence; RFDETRLarge is the largest"),
        ("RFDETRKeypointPreview", "not here: this project has detection and segmentation, but no keypoints"),
        ("ModelContext", "not here: model is the torch module itself"),
        ("convert_legacy_checkpoint", "not here: old files need no conversion; load them with from_checkpoint"),
        ("ModelWeights", "rfdetr_core.checkpoint.published.PUBLISHED here"),
    ],
)
def test_an_import_of_a_name_that_is_elsewhere_or_nowhere_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ImportError, match=f"{name} of rfdetr 1.11.2 is {message}"):
        exec(f"from rfdetr_core import {name}")
    with pytest.raises(ImportError, match=message):
        exec(f"from rfdetr_core.training import {name}")
    with pytest.raises(ImportError, match=message):
        getattr(rfdetr_core, name)


@pytest.mark.parametrize(
    "name", ["", "__wrapped__", "_repr_html_", "__path_x__", "pytest_plugins", "Nothing", "RFDETRnano", "nothing.py"]
)
def test_a_name_that_upstream_does_not_have_is_an_ordinary_missing_attribute(name: str) -> None:
    assert not hasattr(rfdetr_core, name)
    if name.isidentifier():
        with pytest.raises(ImportError, match=f"cannot import name '{name}'"):
            exec(f"from rfdetr_core import {name}")


def test_the_answers_need_no_torch() -> None:
    code = (
        "import sys, rfdetr_core\ntry: rfdetr_core.ModelContext\nexcept ImportError: sys.exit('torch' in sys.modules)\n"
        "else: sys.exit('no error')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_absent_member_of_the_class_names_its_replacement() -> None:
    model = RFDETRPico(resolution=64, num_queries=4, group_detr=1, device="cpu", pretrain_weights=None)
    with pytest.raises(
        AttributeError, match=r"get_model of rfdetr 1\.11\.2 is not here: .*the torch module is `model`"
    ):
        getattr(model, "get_model")  # noqa: B009 - a type checker knows that it is not there
    for name in ("_repr_html_", "__deepcopy__", "predct"):
        assert not hasattr(model, name)
    with pytest.raises(AttributeError, match="'RFDETRPico' object has no attribute 'predct'") as caught:
        getattr(model, "predct")  # noqa: B009
    assert (caught.value.name, caught.value.obj) == ("predct", model)  # Python suggests `predict` from these
    with pytest.raises(UserError, match="trust_checkpoint is not an option here: code in a model file is never run"):
        RFDETRPico(trust_checkpoint=True)


def test_a_name_has_an_answer_only_where_upstream_has_it() -> None:
    assert missing_member("train") is None
    assert missing_member("RFDETRXLarge") is None
    assert missing_name("threshold") is None
    assert missing_name("get_model") is None


@pytest.mark.parametrize(("module", "name"), [("config", "KeypointTrainConfig"), ("config", "ExportConfig")])
def test_the_other_modules_with_upstreams_names_answer_too(module: str, name: str) -> None:
    with pytest.raises(ImportError, match=f"{name} of rfdetr"):
        exec(f"from rfdetr_core.{module} import {name}")


MODULES = {f"rfdetr{end}": f"rfdetr_core{end}" for end in ("", ".config", ".training")}
OWNED = [(MODULES[owner], name, row) for row in API for owner in row.owners.split() if owner in MODULES
         for name in row.names.split()]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "row"), OWNED, ids=[f"{module}.{name}" for module, name, _ in OWNED])
def test_every_upstream_name_can_be_imported_or_has_an_answer(module: str, name: str, row: Row) -> None:
    local_module = importlib.import_module(module)
    if name in local_module.__all__:
        assert name in dir(local_module)
        assert getattr(local_module, name).__name__ in (name, row.path(name).rpartition(".")[2], "TrainConfig")
    else:
        with pytest.raises(ImportError, match=rf"^{name} of rfdetr 1\.11\.2 is "):
            exec(f"from {module} import {name}")


@pytest.mark.parametrize("module", MODULES.values())
def test_looking_up_a_submodule_does_not_import_it(module: str) -> None:
    names = [submodule.name for submodule in pkgutil.iter_modules(importlib.import_module(module).__path__)]
    code = (
        f"import sys, {module} as package\nbefore = {{*sys.modules}}\n"
        f"assert not [name for name in {names} if hasattr(package, name) and f'{module}.{{name}}' not in before]\n"
        "assert before == {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
