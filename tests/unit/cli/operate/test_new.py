"""`new` makes a repository that holds, and never writes over anything."""

from pathlib import Path

import pytest

from qanchor.scaffold import scaffold
from qanchor.workspace import load_workspace
from tests.unit.cli.conftest import Run

_EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "online_retail"


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_commented_start_holds_and_ignores_the_state(tmp_path: Path, run: Run) -> None:
    code, out, _ = run("new", str(tmp_path / "shop"))
    assert code == 0
    assert "qanchor-cli events load" in out
    assert {"feature_repo/feature_store.yaml", "feature_repo/definitions.py", ".gitignore"} <= _files(
        tmp_path / "shop"
    )
    assert (tmp_path / "shop" / ".gitignore").read_text() == ".qanchor/\n"
    assert list(load_workspace(tmp_path / "shop" / "feature_repo").scenarios) == ["repurchase"]


def test_the_two_yaml_files_come_from_an_example(tmp_path: Path, run: Run) -> None:
    assert run("new", str(tmp_path / "shop"), "--from", str(_EXAMPLE))[0] == 0
    for name in ("modalities.yaml", "scenarios.yaml"):
        assert (tmp_path / "shop" / "feature_repo" / name).read_text() == (_EXAMPLE / name).read_text()


def test_a_scaffold_can_be_the_source_of_another(tmp_path: Path, run: Run) -> None:
    run("new", str(tmp_path / "one"))
    assert run("new", str(tmp_path / "two"), "--from", str(tmp_path / "one"))[0] == 0
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_no_compiled_python_is_copied(tmp_path: Path, run: Run) -> None:
    run("new", str(tmp_path / "shop"))
    assert not [name for name in _files(tmp_path / "shop") if name.endswith(".pyc")]


def test_a_folder_in_use_is_refused_and_left_as_it_was(tmp_path: Path, run: Run) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = run("new", str(tmp_path))
    assert (code, "--force" in err) == (2, True)
    assert _files(tmp_path) == {"notes.txt"}


def test_force_puts_the_repository_beside_what_is_there(tmp_path: Path, run: Run) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".gitignore").write_text("*.log\n")
    assert run("new", str(tmp_path), "--force")[0] == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / ".gitignore").read_text() == "*.log\n.qanchor/\n"
    assert run("new", str(tmp_path), "--force")[0] == 2


@pytest.mark.parametrize("text", ["modalities: {}", "modalities: [", None])
def test_a_source_that_does_not_hold_leaves_nothing_behind(
    tmp_path: Path, run: Run, text: str | None
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if text is not None:
        (source / "modalities.yaml").write_text(text)
    code, _, err = run("new", str(tmp_path / "shop"), "--from", str(source))
    assert (code, "modalities.yaml" in err) == (2, True)
    assert not (tmp_path / "shop").exists()


def test_a_file_in_the_way_is_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "shop").touch()
    assert run("new", str(tmp_path / "shop"))[0] == 2


def test_an_interrupted_scaffold_can_be_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            scaffold(tmp_path / "shop")
    assert not (tmp_path / "shop" / "feature_repo").exists()
    scaffold(tmp_path / "shop")
    assert not [name for name in _files(tmp_path / "shop") if "building" in name]


@pytest.mark.parametrize(
    ("folder", "project"), [("shop", "shop"), ("my-shop 2", "my_shop_2"), ("_x_", "x"), ("商店", "qanchor")]
)
def test_the_feast_project_is_named_after_the_folder(
    tmp_path: Path, run: Run, folder: str, project: str
) -> None:
    assert run("new", str(tmp_path / folder))[0] == 0
    repository = tmp_path / folder / "feature_repo"
    for path in (repository / "feature_store.yaml", repository / "profiles" / "production.yaml"):
        assert f"project: {project}\n" in path.read_text()
