"""How a model was made, as sections of Markdown: its weights, parameters, environment, and the commands for it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from rfdetr_core.base import git
from rfdetr_core.base.markdown import block, code
from rfdetr_core.base.provenance import flattened
from rfdetr_core.documents.facts import LOCK, Facts
from rfdetr_core.documents.parents import ancestors
from rfdetr_core.documents.tables import NOT_KNOWN, code_names, counted, joined, shown, table


def parents(facts: Facts) -> str:
    """The weights that the training started from, and what is known of the data behind them."""
    found = [*ancestors(facts.training)]
    rows = [(code(one.parameter), code(one.name), str(one.steps), code(one.sha256)) for one in found]
    if given := (facts.training.get("custom") or {}).get("weights"):
        rows.append(("a script", "-", "1", code(given)))
    if not rows:
        return "The training started from random weights."
    data = [
        (
            code(one.name),
            str(one.steps),
            code(split),
            counted(counts["images"]),
            counted(counts["objects"]),
            code(sha256),
        )
        for one in found
        for split, counts, sha256 in one.splits()
    ]
    parts = [table(("parameter", "file", "trainings back", "SHA-256"), rows)]
    if data:
        head = ("file", "trainings back", "split", "images", "objects", "SHA-256 of the manifest")
        parts += [
            "These weights come from the following data, so that the model learned from it, too:",
            table(head, data),
        ]
    return joined(*parts).strip()


def parameters(facts: Facts, names: Sequence[str] = ()) -> str:
    """The parameters of the training, without the folders of the machine; names: only these, such as `train.lr`."""
    values = flattened(facts.training["params"])
    chosen = {name: values[name] for name in names if name in values} if names else values
    rows = ((code(name), shown(_without_folder(name, one))) for name, one in chosen.items())
    return table(("parameter", "value"), rows)


def custom(facts: Facts) -> str:
    """What a script changed of the training, and the classes of installed packages that took part in it."""
    changed = flattened({key: facts.training[key] for key in ("custom", "classes") if facts.training.get(key)})
    rows = [(code(name), shown(one)) for name, one in changed.items()]
    return (
        table(("what", "value"), rows)
        if rows
        else "The record names no change by a script, and no class of another package."
    )


def selection(facts: Facts) -> str:
    """By which score the weights were chosen among the epochs."""
    found = facts.lineage["selection"]
    winner = found["winner"]
    best = found[winner]
    score = "no score" if best["score"] is None else f"{best['score']:.4f}"
    return (
        f"Of {found['epochs']} epochs, the {code(winner)} weights of epoch {best['epoch']} were chosen, by "
        f"{code(found['key'])} on the split `valid`: {score}. {code_names(found.get('rule') or '')}".strip()
    )


def environment(facts: Facts) -> str:
    """Packages and machine of the training."""
    training = facts.training
    machine = {name: one for name, one in training["machine"].items() if one not in (None, {}, "")}
    rows = [("package", code(name), code(version)) for name, version in facts.packages.items()]
    if training.get("lock"):
        rows.append(("lock", code(LOCK), code(training["lock"])))
    rows += [("machine", code(name), code(one)) for name, one in machine.items()]
    rows += [("run", code(name), code(facts.run[name])) for name in ("gpu", "cpus", "started") if facts.run.get(name)]
    return table(("kind", "name", "value"), rows)


def durations(facts: Facts) -> str:
    """How long each stage ran, as the journal has it."""
    rows = [(code(stage), f"{seconds:,.1f}") for stage, seconds in facts.durations.items()]
    epochs, here = facts.lineage["selection"]["epochs"], facts.run.get("epochs_here")
    resumed = (
        f"The training was interrupted and resumed: its time is that of the last process, with "
        f"{here} of {epochs} epochs."
        if rows and type(here) is int and here < epochs
        else ""
    )
    lead = "As recorded when the stage ran first with this result." if rows else ""
    return joined(lead, table(("stage", "seconds"), rows), resumed).strip()


def commands(facts: Facts) -> str:
    """The commands that make the model again, a purpose behind each."""
    if facts.commit is None:
        return f"{NOT_KNOWN.capitalize()}: no commit is known that has the file."
    lines = [
        (f"git clone {_clone_address(facts)} project && cd project", "get the code of the model"),
        (f"git checkout {facts.commit.id}", "as it was committed"),
        ("make setup", "install the locked packages"),
        ("dvc pull", "get data and results"),
        (f"python -m rfdetr_core verify {shlex.quote(facts.place)}", "check what is at hand against the record"),
        ("python -m rfdetr_core verify --reproduce", "run all again in a clean clone, and compare every byte"),
    ]
    lead = "" if facts.address else "ADDRESS: where the project's repository is."
    return joined(
        block("\n".join(f"{line}  # {why}" for line, why in lines)), f"{lead} {_expected(facts)}".strip()
    ).strip()


def _clone_address(facts: Facts) -> str:
    """The public address as `git clone` takes it: a server that is reached by SSH asks for its user, which is git."""
    if facts.address is None or facts.history_facts is None:
        return "ADDRESS"
    remote = git.answer(facts.history_facts.history.root, "remote", "get-url", "origin") or ""
    user = remote.removeprefix("ssh://").startswith("git@")
    return shlex.quote(facts.address.replace("ssh://", "ssh://git@", 1) if user else facts.address)


def _expected(facts: Facts) -> str:
    train = facts.training["params"].get("train", {})
    if facts.training.get("custom"):
        return (
            "A script changed the training, so that these commands alone do not make equal weights: it has to run, too."
        )
    if train.get("deterministic") is False:
        return "The training was not deterministic, so that a repetition gives other bytes: compare the scores."
    if train.get("portable"):
        return "The training is portable: equal bytes are expected on other machines as well."
    return "Equal bytes are expected on a machine of the same kind; on another one, compare the scores."


def _without_folder(name: str, value: Any) -> Any:
    is_file = name.rpartition(".")[2] in ("pretrain_weights", "resume") and isinstance(value, str)
    return PurePosixPath(value).name if is_file else value
