"""What the tests of the documentation share: where its pages are, and the generator of the reference."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import reference  # noqa: E402, F401 - from the line above


def pages():
    """Every Markdown page of the repository."""
    folders = (ROOT / "docs").rglob("*.md"), (ROOT / "src").rglob("*.md"), ROOT.glob("*.md")
    return sorted(page for pages in folders for page in pages)
