"""A wheel builds, installs, and brings the entry point, migrations, template and Feast plug-ins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built wheel installed, and nothing else of this project."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", folder / "dist", _ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    if "hatchling" in built.stderr and built.returncode:
        pytest.skip("the build backend cannot be had here: pip could not install hatchling")
    assert built.returncode == 0, built.stderr
    (wheel,) = (folder / "dist").glob("qanchor-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, timeout=120
    )
    return folder / "site"


def _python(installed: Path, *arguments: str, cwd: Path) -> str:
    # -P and a foreign working directory: the checkout must not be what answers.
    environment = {**os.environ, "PYTHONPATH": str(installed), "QANCHOR_HOME": str(cwd / "home")}
    environment.pop("QANCHOR_REPO", None)
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


def test_the_entry_point_is_declared_and_answers(installed: Path, tmp_path: Path) -> None:
    assert (installed / "bin" / "qanchor-cli").exists()
    assert "backfill" in _python(installed, "-m", "cli", "--help", cwd=tmp_path)


def test_a_repository_is_scaffolded_and_the_schema_created_from_the_wheel(
    installed: Path, tmp_path: Path
) -> None:
    _python(installed, "-m", "cli", "new", "mine", cwd=tmp_path)
    assert (tmp_path / "mine" / "feature_repo" / "definitions.py").exists()
    _python(installed, "-m", "cli", "db", "upgrade", cwd=tmp_path / "mine")
    where = _python(installed, "-c", "import qanchor; print(qanchor.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed))
    assert (tmp_path / "mine" / "home" / "qanchor.db").exists()


@pytest.mark.parametrize(
    "module", ["qanchor.storage.feast_ext.online_store", "qanchor.storage.feast_ext.engine"]
)
def test_the_feast_plug_ins_travel_with_it(installed: Path, module: str, tmp_path: Path) -> None:
    script = f"import importlib.util as u; print(u.find_spec({module!r}).origin)"
    assert _python(installed, "-c", script, cwd=tmp_path).startswith(str(installed))


@pytest.mark.parametrize("package", ["qanchor", "consumers"])
def test_the_packages_are_marked_as_typed(installed: Path, package: str) -> None:
    assert (installed / package / "py.typed").exists()
