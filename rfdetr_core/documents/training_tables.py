"""Sections of Markdown about the training: starting weights, parameters, environment, and commands to reproduce it."""

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
from rfdetr_core.documents.tables import code_names, format_count, format_value, join_paragraphs, table

_GENERATION = (
    "Generation 1: the weights that the training of this model started from. Generation 2: the weights that the "
    "training of generation 1 started from, and so on."
)
# The meaning of names in the training record and the run record that are not clear by themselves.
_MEANINGS = {
    "device": "used for training",
    "cpu": "instruction set",
    "processor": "model of the CPU",
    "threads": "number",
    "cpus": "number of CPUs",
}


def parents(facts: Facts) -> str:
    """The weights that the training started from, and the data of the earlier trainings that made these weights."""
    starting_weights = [*ancestors(facts.training)]
    rows = [
        (code(ancestor.parameter), code(ancestor.name), str(ancestor.steps), code(ancestor.sha256))
        for ancestor in starting_weights
    ]
    if script_weights := (facts.training.get("custom") or {}).get("weights"):
        rows.append(("a script", "-", "1", code(script_weights)))
    if not rows:
        return "The training started from random weights."
    data = [
        (
            code(ancestor.name),
            str(ancestor.steps),
            code(split),
            format_count(counts["images"]),
            format_count(counts["objects"]),
            code(sha256),
        )
        for ancestor in starting_weights
        for split, counts, sha256 in ancestor.splits()
    ]
    parts = [table(("parameter", "file", "generation", "SHA-256"), rows), _GENERATION]
    if data:
        head = ("file", "generation", "split", "images", "objects", "SHA-256 of the manifest")
        parts += [
            "These weights were trained on the following data, so the model learned from it, too:",
            table(head, data),
        ]
    return join_paragraphs(*parts).strip()


def parameters(facts: Facts, names: Sequence[str] = ()) -> str:
    """The parameters of the training, without folder names. names: only these parameters, such as `train.lr`."""
    values = flattened(facts.training["params"])
    chosen = {name: values[name] for name in names if name in values} if names else values
    rows = ((code(name), format_value(_without_folder(name, value))) for name, value in chosen.items())
    return table(("parameter", "value"), rows)


def custom(facts: Facts) -> str:
    """The parts of the training that a script changed, and the classes of other packages that it used."""
    changed = flattened({key: facts.training[key] for key in ("custom", "classes") if facts.training.get(key)})
    rows = [(code(name), format_value(value)) for name, value in changed.items()]
    return (
        table(("what", "value"), rows)
        if rows
        else "No script changed the training. The training used no class of another package."
    )


def selection(facts: Facts) -> str:
    """Which epoch and track were chosen, and by which score."""
    selected = facts.lineage["selection"]
    winner = selected["winner"]
    best = selected[winner]
    score = "no score" if best["score"] is None else f"{best['score']:.4f}"
    average = (
        "The training keeps two sets of weights: `regular`, and `ema` (EMA), their exponential moving average. "
        if selected["ema"]["score"] is not None
        else ""
    )
    return (
        f"{average}Of {selected['epochs']} epochs, the {code(winner)} weights of epoch {best['epoch']} were chosen, by "
        f"{code(selected['key'])} on the split `valid`: {score}. {code_names(selected.get('rule') or '')}".strip()
    )


def environment(facts: Facts) -> str:
    """The packages and the machine of the training."""
    training = facts.training
    machine = {name: value for name, value in training["machine"].items() if value not in (None, {}, "")}
    rows = [("package", code(name), code(version)) for name, version in facts.packages.items()]
    if training.get("lock"):
        rows.append(("lock file of the packages, SHA-256", code(LOCK), code(training["lock"])))
    rows += [("machine", _name_with_meaning(name), code(value)) for name, value in machine.items()]
    run = {name: facts.run[name] for name in ("gpu", "cpus", "started") if facts.run.get(name)}
    rows += [("run", _name_with_meaning(name), code(value)) for name, value in run.items()]
    return table(("kind", "name", "value"), rows)


def _name_with_meaning(name: str) -> str:
    meaning = _MEANINGS.get(name)
    return code(name) + (f" ({meaning})" if meaning else "")


def durations(facts: Facts) -> str:
    """How long each stage ran, according to the journal."""
    rows = [(code(stage), f"{seconds:,.1f}") for stage, seconds in facts.durations.items()]
    epochs, epochs_run = facts.lineage["selection"]["epochs"], facts.run.get("epochs_here")
    resumed = (
        f"The training was interrupted and resumed. The time of `train` covers only its last part, {epochs_run} of "
        f"{epochs} epochs."
        if rows and type(epochs_run) is int and epochs_run < epochs
        else ""
    )
    lead = "Each row has the time of the first run of the stage that wrote this result." if rows else ""
    return join_paragraphs(lead, table(("stage", "seconds"), rows), resumed).strip()


def commands(facts: Facts) -> str:
    """The commands that reproduce the model, each with a comment."""
    if facts.commit is None:
        return "No known commit has the file. So there are no commands that reproduce it."
    lines = [
        (f"git clone {_clone_address(facts)} project && cd project", "get the code of the model"),
        (f"git checkout {facts.commit.id}", "the commit that added the model"),
        ("make setup", "install the locked packages into .venv"),
        (". .venv/bin/activate", "use these packages"),
        ("dvc pull", "get data and results"),
        (f"python -m rfdetr_core verify {shlex.quote(facts.place)}", "compare the local files with the lineage"),
        ("python -m rfdetr_core verify --reproduce", "run all stages again in a clean clone and compare every byte"),
    ]
    lead = "" if facts.address else "ADDRESS: the address of the project's repository."
    trust = (
        "These commands run code of the clone. If you do not trust it, run "
        "`python -m rfdetr_core verify --repo project` from a checkout that you trust."
    )
    return join_paragraphs(
        block("\n".join(f"{line}  # {why}" for line, why in lines)),
        f"{lead} {_reproducibility_note(facts)}".strip(),
        trust,
    ).strip()


def _clone_address(facts: Facts) -> str:
    """The public address for `git clone`. For an SSH server, the user `git` is added."""
    if facts.address is None or facts.history_facts is None:
        return "ADDRESS"
    remote = git.answer(facts.history_facts.history.root, "remote", "get-url", "origin") or ""
    user = remote.removeprefix("ssh://").startswith("git@")
    return shlex.quote(facts.address.replace("ssh://", "ssh://git@", 1) if user else facts.address)


def _reproducibility_note(facts: Facts) -> str:
    train = facts.training["params"].get("train", {})
    if facts.training.get("custom"):
        return (
            "A script changed the training. To get equal weights, this script must run in addition to these commands."
        )
    if train.get("deterministic") is False:
        return "The training was not deterministic, so another run gives other bytes. Compare the scores."
    if train.get("portable"):
        return "The training is portable: equal bytes are expected on other machines as well."
    return "Equal bytes are expected on a machine of the same kind. On another machine, compare the scores."


def _without_folder(name: str, value: Any) -> Any:
    is_file = name.rpartition(".")[2] in ("pretrain_weights", "resume") and isinstance(value, str)
    return PurePosixPath(value).name if is_file else value
