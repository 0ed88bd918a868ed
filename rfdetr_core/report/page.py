"""Renders a Jinja2 template to a page: one HTML file that loads no other file and runs only its own scripts."""

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
    """Render a page and write it, whole or not at all.

    Args:
        path: The file to write.
        template: See `render`.
        title: The title of the page.
        values: The values that the template uses, by name.
    """
    files.write_text(path, render(template, title, **values))


def render(template: Path, title: str, **values: Any) -> str:
    """Render a template to HTML. Texts are escaped; an undefined name is an error. Equal values give equal bytes.

    Args:
        template: A file that extends "page.html" (blocks: header, main, noscript) and uses the macros of `kit`. The
            templates that it includes are in the same folder.
        title: The title of the page.
        values: The values that the template uses, by name.
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
    # Jinja evaluates kit.html once in an environment, with the global `page` of that moment. So each page needs its own
    # environment.
    environment.globals["kit"] = environment.get_template("kit.html").module
    return environment.get_template(template.name).render(values)


def to_json(value: Any) -> str:
    """JSON for a script element: no text in it can end the element. numpy numbers become plain numbers."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=lambda number: number.item())
    return text.replace("<", "\\u003c")


class _Page:
    """The state of a page while it is rendered: its sections, lists and charts, which page.html needs."""

    def __init__(self, title: str) -> None:
        self.title, self.sections, self.lists = title, list[tuple[str, str]](), 0
        self.style = files.read_text(_KIT / "kit.css")
        self._has_charts = False

    def add_section(self, anchor: str, title: str) -> str:
        self.sections.append((anchor, title))
        return ""

    def add_chart(self, chart: Chart) -> str:
        """Register a chart. Returns its JSON for the script."""
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
        """The scripts of the page in their order. Vega is included only if the page has a chart."""
        kit = "\n".join(["'use strict';", *(files.read_text(_KIT / name) for name in _SCRIPTS)])
        return [*([vega_script()] if self._has_charts else []), kit]

    @property
    def policy(self) -> str:
        """The content security policy. Scripts and style are used only if their digest is in it."""
        scripts = " ".join(_source(script) for script in self.scripts)
        policy = f"default-src 'none'; img-src data:; style-src {_source(self.style)}; script-src {scripts}"
        return f"{policy}; base-uri 'none'; form-action 'none'"


@functools.cache
def vega_script() -> str:
    """Vega, Vega-Lite and vega-embed as a script that sets `vegaEmbed`, in the version that Altair writes for."""
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version))
    # "</script" would end the script element, and "<!--" would change how the rest of it is parsed.
    if "</script" in script.lower() or "<!--" in script:
        raise AssertionError("Vega's script cannot be embedded in a page: it contains </script or <!--")
    return script


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
