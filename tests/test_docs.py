"""README and docs name what exists: files, modules, commands, targets of make, links and their headings."""

import importlib.util
import re

import pytest
import typer

from frost.cli import app
from tests.paths import ROOT

PAGES = {page.relative_to(ROOT).as_posix(): page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
COMMANDS = typer.main.get_command(app).commands
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
CODE = r"(?:`|^\s*(?:\$ )?)"  # a span of code begins here, or a line of a block


def heading_ids(page: str) -> set[str]:
    """What GitHub calls the headings of a page in links."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_files_and_modules_are_there(page):
    files = re.findall(r"\b(?:frost|stages|bench|studies|tests|params)/[\w/]+\.(?:py|yaml)\b", PAGES[page])
    assert [file for file in files if not (ROOT / file).is_file()] == []
    modules = re.findall(r"\bpython3? -m ([\w.]*\w)", PAGES[page])
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_there(page):
    commands = re.findall(rf"{CODE}frost ([a-z]+)", PAGES[page], re.MULTILINE)
    assert set(commands) <= set(COMMANDS)
    assert set(re.findall(rf"{CODE}make ([a-z-]+)", PAGES[page], re.MULTILINE)) <= TARGETS


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if target.startswith("http"):
            continue
        file, _, heading = target.partition("#")
        linked = (ROOT / page).parent / file if file else ROOT / page
        assert linked.exists(), target
        assert not heading or heading in heading_ids(linked.read_text()), target
