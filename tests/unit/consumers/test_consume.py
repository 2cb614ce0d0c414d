"""What a consumer may be called."""

import pytest

from consumers.consume import check_name
from qanchor.errors import InputError


@pytest.mark.parametrize("name", ["one", "node-7.cluster.local", "A_1"])
def test_host_names_and_the_like_are_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a/b", "../x", "_hidden", ".hidden", "a b", "compacted-1", "x" * 101, "a\n"]
)
def test_what_would_hide_or_misplace_its_files_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a consumer"):
        check_name(name)
