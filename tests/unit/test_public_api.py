"""What a user of the library imports: sorted, there, typed and cheap to import."""

import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import qanchor
from qanchor.errors import QAnchorError
from qanchor.model.facade import UserModel
from qanchor.site import Site

ROOT = Path(qanchor.__file__).parents[1]


def test_every_public_name_is_there_and_the_list_is_sorted() -> None:
    assert qanchor.__all__ == sorted(set(qanchor.__all__))
    for name in qanchor.__all__:
        assert getattr(qanchor, name) is not None
    assert (qanchor.Site, qanchor.UserModel) == (Site, UserModel)
    errors = [getattr(qanchor, name) for name in qanchor.__all__[:-1] if name not in ("Site", "UserModel")]
    assert all(issubclass(error, QAnchorError) for error in errors)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'qanchor' has no attribute 'Sight'"):
        _ = qanchor.Sight  # type: ignore[attr-defined]


def test_load_gives_a_typed_model() -> None:
    hints = get_type_hints(qanchor.load, localns={"UserModel": UserModel})
    assert hints["return"] is UserModel


@pytest.mark.parametrize("statement", ["import qanchor", "from qanchor import Site, InputError"])
def test_importing_the_package_imports_neither_torch_nor_feast(statement: str) -> None:
    code = f"{statement}\nimport sys; print(sorted({{'torch', 'feast', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["qanchor", "consumers"])
def test_packages_are_marked_as_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
