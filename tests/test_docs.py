"""The pages: every link leads somewhere, and what is written for users has no words that only we understand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("model_zoo/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PRIVATE = re.compile(
    r"\b(the (whole )?road|roads|a room|rooms of|(same|usual) rooms|how runs stand|lying ind\w+)\b", re.I
)


def anchors(page: Path) -> set[str]:
    """Names that headings get where Markdown is shown: lower case, no punctuation, hyphens for spaces."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in HEADING.findall(text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    wrong = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(link)
    assert not wrong


def test_every_page_of_docs_is_reached_from_its_first_page() -> None:
    seen, ahead = set(), [ROOT / "docs" / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        links = LINK.findall(page.read_text(encoding="utf-8"))
        ahead += [
            (page.parent / link.partition("#")[0]).resolve() for link in links if "://" not in link and link[0] != "#"
        ]
    assert set(ROOT.glob("docs/**/*.md")) <= seen


def test_pages_for_users_have_no_private_words() -> None:
    found = [
        f"{page.relative_to(ROOT)}: {match[0]}"
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for match in PRIVATE.finditer(page.read_text(encoding="utf-8"))
    ]
    assert not found
