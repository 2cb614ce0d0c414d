"""docs/architecture.md says what the code is."""

import re
import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_page_has_the_layers_that_are_checked() -> None:
    settings = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = [
        contract
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract.get("containers") == ["qanchor"]
    ]
    block = re.findall(r"^      (\w+(?: \| \w+)*)", _PAGE, re.MULTILINE)
    assert block == contract["layers"]


def test_the_glossary_is_short_and_names_a_word_once() -> None:
    table = _PAGE.split("## Glossary")[1].split("\n## ")[0]
    words = re.findall(r"^\| (?!word)([^|]+) \|", table, re.MULTILINE)
    assert 20 <= len(words) <= 25
    assert len(set(words)) == len(words)


def test_every_file_that_the_page_names_exists() -> None:
    names = re.findall(r"[\w/]+\.py\b", _PAGE)
    tops = ("qanchor", "consumers", "feature_repo")
    files = [path.as_posix() for top in tops for path in (_ROOT / top).rglob("*.py")]
    assert names
    assert [name for name in names if not any(file.endswith(f"/{name}") for file in files)] == []
