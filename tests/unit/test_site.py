"""The documentation is a site that builds without a warning, and every link in it leads somewhere."""

import importlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

import noprop_dist
from noprop_dist.cli.app import app
from noprop_dist.config.bits import what_changes_bits
from noprop_dist.config.schema import RunConfig

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/tutorial.ipynb"


class Page(HTMLParser):
    """The ids of a page, what it links to, and what a browser loads with it."""

    def __init__(self, file):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(file.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if "href" in attributes:
            is_loaded = tag == "link" and attributes.get("rel") in ("stylesheet", "icon", "preload", "preconnect")
            (self.loaded if is_loaded else self.links).append(attributes["href"])
        if "src" in attributes:
            self.loaded.append(attributes["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    out = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr
    return out


@pytest.fixture(scope="module")
def pages(site):
    return {file: Page(file) for file in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_every_link_and_every_anchor_of_the_site_leads_somewhere(site, pages):
    lost = []
    for file, page in pages.items():
        if file.name == "404.html":  # its links are absolute: a server shows it in any folder
            continue
        for link in (*page.links, *page.loaded):
            path, anchor = urldefrag(link)
            if urlsplit(link).scheme:
                continue
            target = (file.parent / unquote(path)).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            known = target in pages and (not anchor or unquote(anchor) in pages[target].ids)
            if not (known or (target.is_file() and not anchor)):
                lost.append(f"{file.relative_to(site)}: {link}")
    assert lost == []
    assert len(pages) > 20


@pytest.mark.slow
def test_the_site_loads_nothing_from_other_hosts(pages):
    assert {link for page in pages.values() for link in page.loaded if urlsplit(link).netloc} == set()


@pytest.mark.slow
def test_the_site_shows_no_mark_of_a_page_that_was_not_generated(site):
    for file in site.rglob("*.html"):
        assert "<!-- generated" not in file.read_text(), file


@pytest.mark.slow
def test_the_reference_has_every_setting_command_and_public_name(pages, site):
    shown = pages[site / "reference/settings.html"].ids
    wanted = what_changes_bits(RunConfig())
    assert {key for key in wanted if key not in shown and not key.startswith("blocks.network.")} == set()
    commands = pages[site / "reference/command-line.html"].ids
    assert {f"noprop-dist-{command.callback.__name__}" for command in app.registered_commands} <= commands
    api = pages[site / "reference/api.html"].ids
    assert {name for name in noprop_dist.__all__ if not any(each.endswith(f".{name}") for each in api)} == set()


def test_a_generated_row_tells_type_bounds_default_and_whether_the_setting_changes_bits(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs/hooks")
    rows = importlib.import_module("settings_page").settings().splitlines()
    (count,) = (row for row in rows if "`blocks.count`" in row)
    assert count.endswith("| integer ≥\u00a01, ≤\u00a010,000 | `10` | yes | T |")
    (workers,) = (row for row in rows if "`engine.workers`" in row)
    assert "| integer ≥\u00a01, <\u00a02³¹ or `auto` or mapping | `auto` | the baseline's |" in workers
    (profile,) = (row for row in rows if "`engine.profile`" in row)
    assert "| section or `null` | `null` | no |" in profile


def test_the_front_page_has_the_command_that_gates_a_change():
    (gate,) = re.findall(r"^exec (\S+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert re.search(rf"^    {gate} ", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_ten_lines_of_the_front_page_train_predict_and_plot(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 10
    short = 'preset("digits", engine={"kind": "sequential"}, blocks={"count": 2}, training={"max_steps": 20})'
    assert 'preset("digits")' in code
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", code.replace('preset("digits")', short)]
    told = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert re.fullmatch(r"0\.\d+ tensor\(\[\d\]\)\n", told.stdout), told.stderr
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    (run,) = (tmp_path / "runs").iterdir()
    assert noprop_dist.Result.from_path(run).metrics["test_accuracy"] > 0.95


def test_the_notebook_is_committed_with_the_outputs_of_a_whole_run():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    assert "run directory: runs/" in NOTEBOOK.read_text(), "names a folder of a machine; launch/docs tutorial does not"
