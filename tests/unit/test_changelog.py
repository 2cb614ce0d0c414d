"""The changelog's newest heading is the version."""

import re
from pathlib import Path

import qanchor

_ROOT = Path(__file__).resolve().parents[2]


def test_newest_heading_is_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (_ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert next(heading for heading in headings if heading != "Unreleased") == qanchor.__version__
    assert f'version = "{qanchor.__version__}"' in (_ROOT / "pyproject.toml").read_text()
