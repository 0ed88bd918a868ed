"""A page: a Jinja2 template rendered into one HTML file that requests nothing and runs no script but its own."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.report import tables
from rfdetr_core.report.specs import Chart
from rfdetr_core.report.text import number, percent, plural

_KIT = Path(__file__).parent / "templates"
_SCRIPTS = ("lists.js", "pictures.js", "charts.js")


def write_page(path: Path, template: Path, title: str, **values: Any) -> None:
    """Write the page that `render` makes to `path`, whole or not at all."""
    files.write_text(path, render(template, title, **values))


def render(template: Path, title: str, **values: Any) -> str:
    """The HTML of a template that extends "page.html" (blocks: header, main, noscript) and takes macros from `kit`.

    Texts are escaped, and an undefined name is an error. Equal values give equal bytes.

    template: a file; templates that it includes are beside it. values: the names that it uses.
    """
    import jinja2

    def load(name: str) -> str:
        folder = next(folder for folder in (template.parent, _KIT) if (folder / name).exists())
        return files.read_text(folder / name)

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"json": to_json, "number": number, "percent": percent, "plural": plural}
    environment.filters |= {"shares": tables.shares, "formatted": tables.formatted, "sort_value": tables.sort_value}
    environment.filters["kind"] = lambda cell: type(cell).__name__
    environment.globals["page"] = _Page(title)
    # A module that is loaded once would keep the first page it was loaded for: so one environment for each page.
    environment.globals["kit"] = environment.get_template("kit.html").module
    return environment.get_template(template.name).render(values)


def to_json(value: Any) -> str:
    """JSON that can stand within a script element: no text in it can end the element. Numbers of numpy are numbers."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=lambda number: number.item())
    return text.replace("<", "\\u003c")


class _Page:
    """What the parts of one page register while they are rendered, and what its head then needs."""

    def __init__(self, title: str) -> None:
        self.title, self.sections, self.lists = title, list[tuple[str, str]](), 0
        self.style = files.read_text(_KIT / "kit.css")
        self._has_charts = False

    def add_section(self, anchor: str, title: str) -> str:
        self.sections.append((anchor, title))
        return ""

    def add_chart(self, chart: Chart) -> str:
        """The chart as its script reads it."""
        self._has_charts = True
        return to_json(
            {
                "spec": chart.spec,
                "leastWidth": chart.least_width,
                "mostWidth": chart.most_width,
                "choose": chart.choose._asdict() if chart.choose else None,
            }
        )

    def next_list(self) -> str:
        self.lists += 1
        return f"list-{self.lists}"

    @property
    def scripts(self) -> list[str]:
        """The scripts in their order; that of Vega only where a chart needs it."""
        own = "\n".join(["'use strict';", *(files.read_text(_KIT / name) for name in _SCRIPTS)])
        return [*([vega_script()] if self._has_charts else []), own]

    @property
    def policy(self) -> str:
        """The content security policy: scripts and style run only if their digest is in it."""
        scripts = " ".join(_source(script) for script in self.scripts)
        policy = f"default-src 'none'; img-src data:; style-src {_source(self.style)}; script-src {scripts}"
        return f"{policy}; base-uri 'none'; form-action 'none'"


@functools.cache
def vega_script() -> str:
    """Vega, Vega-Lite and vega-embed as one script, which sets `vegaEmbed`; of the version that Altair writes for."""
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version))
    # A script element ends at the first, and is read otherwise after the second.
    if "</script" in script.lower() or "<!--" in script:
        raise AssertionError("Vega's script cannot stand in a page")
    return script


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
