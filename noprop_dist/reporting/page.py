"""One HTML page with everything in it: no script, no request to anywhere."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template


def html_page(
    title: str,
    subtitle: str,
    headline: Mapping[str, str],
    pictures: Sequence[tuple[str, str, bytes]],
    facts: Mapping[str, str],
    fingerprints: Mapping[str, str],
    config: str,
) -> str:
    """The page.

    Args:
        title: of the run.
        subtitle: one line under it.
        headline: the figures that people look for first, by name.
        pictures: (heading, explanation, PNG) of each.
        facts: by name.
        fingerprints: SHA-256 by stage.
        config: YAML.
    """
    template = Template((resources.files(__package__) / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        headline="".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in headline.items()),
        sections="".join(_section(*picture) for picture in pictures),
        facts=_table(facts),
        fingerprints=_table(fingerprints, tag="code"),
        config=escape(config),
    )


def _section(heading: str, explanation: str, png: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<h2>{escape(heading)}</h2><p>{escape(explanation)}</p><img src="{source}" alt="{escape(heading)}">\n'


def _table(rows: Mapping[str, str], tag: str = "span") -> str:
    cells = (f"<td>{escape(name)}</td><td><{tag}>{escape(value)}</{tag}></td>" for name, value in rows.items())
    return "<table>" + "".join(f"<tr>{pair}</tr>" for pair in cells) + "</table>"
