"""Hostile names in a comment are shown as text. They make no table row, no mention of a user and no link."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from ci import comment, reproduce
from ci.steps import COMPARED, COMPARISON, PLAN, RAN
from rfdetr_core.base.markdown import block, code, row

HOSTILE = [
    "a|b",
    r"a\|b",
    r"a\\|b|",
    "x | 9 | 1.000 | 1.000 | +99.00 |",
    "<!--",
    "--> <b>bold</b>",
    "<img src=x onerror=alert(1)>",
    "</code><script>alert(1)</script>",
    "&lt;b&gt; &#64;everyone",
    "@everyone",
    "cat@owner/team",
    "[x](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "[x]: https://evil.example",
    "https://evil.example/a",
    "www.evil.example",
    "me@evil.example",
    "#12",
    "!12",
    "owner/name#12",
    "GH-12",
    "0838ee1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "`@everyone`",
    "``` @everyone",
    "`",
    "\\",
    "a`b``c```d",
    "line\nbreak\r\n| forged | row |\n",
    "\n\n# heading\n\n---\n",
    "```\n@everyone\n```",
    "**bold** _it_ ~~gone~~ $x$ :tada:",
    "/close",
    "\u202eright\u2066 to left\u0007",
    "x" * 5000,
    "   ",
]
LIVE = re.compile(r"@\w|[#!]\d|GH-\d|\b[0-9a-f]{40}\b|://|www\.|javascript:|\w@\w", re.IGNORECASE)


class Page(HTMLParser):
    """Rendered Markdown: its elements, the rows of its tables, the text in code and the text outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.code: list[str] = []
        self.outside = ""
        self.links: list[str] = []
        self.depth = 0
        # GitHub and GitLab render HTML. Outside code they then link mentions, references and addresses.
        self.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "code":
            self.code.append("")
            self.depth += 1

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "code"

    def handle_comment(self, data: str) -> None:
        self.elements.append("comment")

    def handle_data(self, data: str) -> None:
        if self.depth:
            self.code[-1] += data
        else:
            self.outside += data
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data


ALLOWED = {"h2", "h3", "p", "ul", "li", "code", "pre", "table", "thead", "tbody", "tr", "th", "td"}


def safe(text: str) -> Page:
    page = Page(text)
    assert set(page.elements) <= ALLOWED, set(page.elements) - ALLOWED
    assert page.links == []
    assert not LIVE.search(page.outside), page.outside
    assert not re.search(r"<(?!/?code>)", re.sub(r"^(```+)\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE))
    return page


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_in_exactly_its_cell(name: str) -> None:
    table = safe("\n".join([row("a", "b"), row("---", "---"), row(code(name), "1"), row("2", code(name))])).tables[0]
    assert [len(cells) for cells in table] == [2, 2, 2]
    shown = table[1][0].strip()
    assert shown == table[2][1].strip()
    line = " ".join(name.split())
    if len(line) < 300 and line.isprintable():
        assert shown == line
    assert len(shown) < 320
    assert not set("\u202e\u2066\u0007\n") & set(shown)


@pytest.mark.parametrize("name", HOSTILE)
def test_output_in_a_block_stays_in_the_block(name: str) -> None:
    page = safe(f"before\n\n{block(f'{name}{chr(10)}{name}')}\n\nafter")
    assert page.elements == ["p", "pre", "code", "p"]
    assert page.outside.split() == ["before", "after"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose results have hostile names. It has no model file, so `audit --diff` ends with an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RETRAIN_ARTIFACTS", raising=False)
    for command in ("init -q", "config user.name a", "config user.email a@localhost"):
        subprocess.run(["git", *command.split()], check=True)
    before = {"images": 1, "objects": 2, "split": "@everyone | <!--"}
    about = tmp_path / "reports" / "evaluate" / "about.json"
    about.parent.mkdir(parents=True)
    (about.parent / "pictures").mkdir()
    (about.parent / "pictures" / "@everyone|<!--.png").write_bytes(b"")
    about.write_text(json.dumps(before))
    about.with_name("metrics.json").write_text(json.dumps({"map": 0.5}))
    subprocess.run(["git", "add", "."], check=True)
    subprocess.run(["git", "commit", "-q", "-m", "base"], check=True)
    about.with_name("metrics.json").write_text(json.dumps(before))
    PLAN.parent.mkdir()
    PLAN.write_text(json.dumps({"certain": {name: [name] for name in HOSTILE[:-1]}, "possible": [], "force": False}))
    RAN.write_text(json.dumps({"ran": HOSTILE, "cached": HOSTILE}))
    return tmp_path


def compared(**more: Any) -> None:
    numbers = {"map": 0.1, "map_50": 0.2, "map_75": 0.1, "mar_100": None, "f1": 0.3}
    row = {"instances": 3, "images": 3, "old": 0.1, "new": 0.2, "interval": [-1.0, 9.0]}
    classes = [row | {"class": name} for name in HOSTILE]
    content = {"base": "HEAD", "missing": None, "verdict": "passed", "why": "mAP changed", "split": "test"}
    content |= {
        "interval": [0.0, 1.0],
        "old": numbers,
        "new": numbers,
        "per_class": classes,
        "images": 1,
        "images_with_objects": 1,
    }
    content |= {"objects": 1, "of": "boxes", "same": False, "unknown_to_old": HOSTILE, "difference": 1.0}
    content |= {"sentence": "The difference may be chance.", "changes": "Objects found that the base misses: 3."}
    COMPARISON.write_text(json.dumps(content | {"resamples": 200} | more))


def test_the_comment_has_a_row_for_each_class_and_names_only_as_code(folder: Path) -> None:
    compared()
    page = safe(comment.comment("\n".join(HOSTILE[:3])))
    scores, classes = page.tables
    assert [len(cells) for cells in scores] == [4] * 6
    assert [len(cells) for cells in classes] == [6] * (1 + len(HOSTILE))
    assert page.elements.count("li") == len(HOSTILE) - 1
    compared(missing="\n".join(HOSTILE), verdict="failed", why="\n".join(HOSTILE))
    assert safe(comment.comment("not published")).tables == []


def analysed(**changes: Any) -> None:
    """Write the results of the stage report that the comment reads."""
    point = {"threshold": 0.31, "precision": 0.8, "recall": 0.7, "f1": None, "reached": True}
    content = {"schema": 1, "model": {"tensors": "0" * 64}, "split": "test", "images": 10, "of": "masks"}
    content |= {"target": {"precision": 0.8}, "all": point, "classes": dict.fromkeys(HOSTILE, point)}
    folder = comment.EVALUATION
    (folder / "thresholds.json").write_text(json.dumps(content | changes))
    ends = {"schema": 1, "images": 10, "resamples": 1000, "boxes": {"map": None}, "masks": {"map": [0.0625, 0.1875]}}
    (folder / "intervals.json").write_text(json.dumps(ends))
    numbers = {"images": 10, "objects": 2, "map": 0.5, "masks": {"map": 0.125}}
    (folder / "metrics.json").write_text(json.dumps(numbers))


def test_the_comment_has_the_score_with_its_interval_and_the_recommended_threshold(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared()
    assert "threshold" not in comment.comment("")
    analysed()
    score = "mAP of masks 0.125, 95 % interval 0.062 to 0.188 (10 images of `test`). "
    gives = "precision 0.800, recall 0.700, F1 -."
    assert f"\n\n{score}Recommended threshold 0.31 for precision 0.8: {gives}\n\n" in comment.comment("")
    page = "Where the new model fails, and why: `reports/evaluate/index.html`, "
    assert f"\n\n{page}`dvc pull reports/evaluate/index.html`.\n\n" in comment.comment("")
    monkeypatch.setenv("RETRAIN_ARTIFACTS", "https://ci.example/run/1")
    assert f"{page}[in the artifacts of this run](https://ci.example/run/1), or" in comment.comment("")
    monkeypatch.delenv("RETRAIN_ARTIFACTS")
    analysed(target=None, of="boxes")
    score = "mAP of boxes 0.500, interval not measured (10 images of `test`). "
    assert f"{score}Recommended threshold 0.31 for the best F1: " in comment.comment("")
    point = {"threshold": 0.31, "precision": 0.5, "recall": 0.7, "f1": 0.5, "reached": False}
    analysed(all=point)
    assert "Recommended threshold 0.31 (precision 0.8 is not reached): precision 0.500" in comment.comment("")
    analysed(all=point | {"threshold": None})
    assert "No threshold is recommended: nothing was measured." in comment.comment("")


def test_the_comment_says_whether_the_difference_may_be_chance_and_names_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared()
    assert "\n\nThe difference may be chance.\n\n| | base | new | difference |\n" in comment.comment("")
    assert COMPARED.as_posix() not in comment.comment("")
    COMPARED.parent.mkdir()
    COMPARED.write_text("<!doctype html>")
    page = "Objects found that the base misses: 3. Images, slices and crops: `reports/compare/index.html` "
    page += "(A is the base, B the new model), "
    assert f"\n\n{page}on the machine that ran the retraining.\n\n" in comment.comment("")
    safe(comment.comment(""))
    monkeypatch.setenv("RETRAIN_ARTIFACTS", "https://ci.example/run/1")
    assert f"{page}[in the artifacts of this run](https://ci.example/run/1).\n\n" in comment.comment("")


def test_the_comment_shows_pictures_that_have_an_address_and_names_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RETRAIN_RAW", raising=False)
    compared()
    assert "### Both models in pictures" not in comment.comment("")
    words = {"curves.png": "Loss and AP over the epochs", "new_errors.png": "2 of 3 new errors"}
    compared(pictures=words)
    text = comment.comment("")
    safe(text)
    for name, caption in words.items():
        assert f"\n- {caption}: `.retrain/attachments/{name}`\n" in text
    assert "\n\nThey are on the machine that ran the retraining.\n" in text
    monkeypatch.setenv("RETRAIN_RAW", "https://git.example/owner/name/raw")
    page = Page(comment.comment(""))
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout[:10]
    addresses = [f"https://git.example/owner/name/raw/retrain-attachments/{head}/{name}" for name in words]
    assert page.links == addresses
    assert page.elements.count("img") == 2
    for caption, address in zip(words.values(), addresses, strict=True):
        assert f"![{caption}]({address})" in comment.comment("")


@pytest.mark.parametrize("name", HOSTILE)
def test_the_reason_for_missing_pictures_is_shown_as_code(name: str) -> None:
    heading, text = comment._pictures_of_both({"unpictured": name})
    assert heading == "### Both models in pictures"
    assert safe(text).outside.split() == ["There", "are", "no", "pictures:", "."]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_in_the_summary_of_the_evaluation_are_shown_as_code(folder: Path, name: str) -> None:
    compared()
    analysed(split=name)
    safe(comment.comment(""))


def test_only_the_address_of_the_tracked_run_becomes_a_link(folder: Path) -> None:
    compared()
    address = "https://mlflow.example:5000/#/experiments/1/runs/0a1b"
    assert f"MLflow: published as run {address}." in comment.comment(f"published as run {address}")
    for published in (
        f"{address} @everyone",
        "published as run javascript:alert(1)",
        f"published as run {address}?@everyone",
    ):
        safe(comment.comment(published))


def test_a_failed_stage_has_a_row_for_each_finding(folder: Path) -> None:
    import pandas as pd

    reproduce.FINDINGS.parent.mkdir(parents=True)
    columns = dict.fromkeys(("file", "message"), HOSTILE)
    pd.DataFrame({"severity": "error"} | columns).to_csv(reproduce.FINDINGS, index=False)
    page = safe(reproduce.failure("validate", "\n".join(HOSTILE)))
    assert [len(cells) for cells in page.tables[0]] == [3] * (1 + len(HOSTILE))
    safe(reproduce.failure("a|<!-- @everyone", "x"))


@pytest.mark.parametrize("verdict", ["passed", "failed", "undecided"])
def test_the_title_says_if_the_gate_did_not_pass(folder: Path, verdict: str) -> None:
    compared(verdict=verdict, images_with_objects=3, interval=[None, None])
    assert comment.title() == "Retrained: test mAP +1.00 points" + (f", gate {verdict}" if verdict != "passed" else "")
    text = comment.comment("")
    assert f"\n\nGate {verdict}: mAP changed.\n\n" in text
    assert "Difference of mAP in points: +1.00; objects in 3 images: too few for an interval. " in text
