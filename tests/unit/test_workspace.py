"""The two yaml files: what holds is loaded in order, what does not is refused with its place."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from qanchor.errors import UnknownScenario, WorkspaceInvalid
from qanchor.workspace import ScenarioSpec, load_workspace

_ROOT = Path(__file__).resolve().parents[2]
_REPOSITORIES = [
    _ROOT / "feature_repo",
    *sorted(path.parent for path in _ROOT.glob("examples/*/modalities.yaml")),
]


def _modalities() -> dict[str, Any]:
    return {
        "window_days": 90,
        "modalities": {
            "pay": {
                "text": "{what}",
                "fields": {"what": {"type": "text"}, "amount": {"type": "number", "amount": True}},
            }
        },
    }


def _write(repo: Path, modalities: Any, scenarios: Any = None) -> Path:
    repo.mkdir(exist_ok=True)
    (repo / "modalities.yaml").write_text(yaml.safe_dump(modalities, sort_keys=False))
    (repo / "scenarios.yaml").write_text(yaml.safe_dump(scenarios or {"scenarios": {}}))
    return repo


@pytest.mark.parametrize("repo", _REPOSITORIES, ids=lambda path: str(path.name))
def test_every_shipped_repository_loads(repo: Path) -> None:
    workspace = load_workspace(repo)
    assert workspace.modalities
    assert workspace.scenarios


def test_columns_follow_the_order_of_the_file(tmp_path: Path) -> None:
    workspace = load_workspace(_write(tmp_path / "r", _modalities()))
    assert workspace.event_columns == {"what": "text", "amount": "number"}
    assert list(workspace.activity_columns)[:2] == ["act_pay_count_1d", "act_pay_sum_1d"]
    assert list(workspace.activity_columns)[-1] == "act_pay_recency_days"


def test_missing_repository_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceInvalid, match="qanchor-cli new"):
        load_workspace(tmp_path)


def test_broken_yaml_is_one_line(tmp_path: Path) -> None:
    repo = _write(tmp_path / "r", _modalities())
    (repo / "modalities.yaml").write_text("modalities: [")
    with pytest.raises(WorkspaceInvalid, match="is not YAML") as caught:
        load_workspace(repo)
    assert "\n" not in str(caught.value)


def test_template_over_a_number_is_refused(tmp_path: Path) -> None:
    broken = _modalities()
    broken["modalities"]["pay"]["text"] = "{amount}"
    with pytest.raises(WorkspaceInvalid, match=r"modalities\.pay.*'amount'"):
        load_workspace(_write(tmp_path / "r", broken))


def test_one_column_of_two_types_is_refused(tmp_path: Path) -> None:
    broken = _modalities()
    broken["modalities"]["other"] = {"text": "", "fields": {"amount": {"type": "key"}}}
    with pytest.raises(WorkspaceInvalid, match="'amount' is a text in other and a number"):
        load_workspace(_write(tmp_path / "r", broken))


def test_mistyped_key_is_refused_with_its_place(tmp_path: Path) -> None:
    broken = _modalities()
    broken["modalities"]["pay"]["max_event"] = 3
    with pytest.raises(WorkspaceInvalid, match=r"pay\.max_event"):
        load_workspace(_write(tmp_path / "r", broken))


def test_unknown_scenario_names_the_known_ones(tmp_path: Path) -> None:
    scenarios = {"scenarios": {"churn": {"domain": "engagement", "query": "Will this user leave?"}}}
    workspace = load_workspace(_write(tmp_path / "r", _modalities(), scenarios))
    with pytest.raises(UnknownScenario, match="Known: churn"):
        workspace.scenario("chrun")


def test_a_scenario_of_many_classes_names_an_answer_for_each() -> None:
    many = ScenarioSpec(
        domain="risk", query="How late will this user pay?", classes=("in time", "late", "never")
    )
    assert many.answers == ("in time", "late", "never")
    two = ScenarioSpec(domain="risk", query="Will this user pay late?", positive="late", negative="in time")
    assert two.answers == ("in time", "late")
    assert many.has_words
    assert not ScenarioSpec(domain="risk", query="Will this user pay late?").has_words
    for wrong in ({"classes": ("a", "b")}, {"classes": ("a", "b", "a")}, {"positive": "no"}):
        with pytest.raises(ValueError, match="answer"):
            ScenarioSpec(domain="risk", query="Will this user pay late?", **wrong)


def test_definitions_of_a_repository_made_by_0_1_0_find_their_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QANCHOR_HOME", str(tmp_path / "home"))
    repo = _write(
        tmp_path / "r", _modalities(), {"scenarios": {"a": {"domain": "risk", "query": "Will it?"}}}
    )
    names: dict[str, Any] = {}
    exec(  # the file's own line
        "from qanchor.workspace import Home, Workspace, locate, read_fingerprints, vector_widths", names
    )
    workspace, home = names["locate"](repo)
    assert (workspace, home) == (load_workspace(repo), names["Home"](tmp_path / "home"))
    assert names["vector_widths"](workspace, home) == {"a": 128}
    # The form that was written before narrower vectors could be served.
    home.fingerprints.parent.mkdir(parents=True)
    home.fingerprints.write_text('{"a": "abc"}')
    assert names["read_fingerprints"](home) == {"a": "abc"}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("scenarios:\n  risk: {}\n  risk: {}\n", "'risk' is in lines 2 and 3"),
        ("scenarios: {}\nscenarios: {}\n", "'scenarios' is in lines 1 and 2"),
        (
            "scenarios:\n  risk:\n    domain: risk\n    query: Will it?\n    ttl_days: 3\n    ttl_days: 4\n",
            "'ttl_days' is in lines 5 and 6",
        ),
    ],
)
def test_a_key_twice_is_refused_with_its_lines(tmp_path: Path, text: str, key: str) -> None:
    repo = _write(tmp_path / "repo", _modalities())
    (repo / "scenarios.yaml").write_text(text)
    with pytest.raises(WorkspaceInvalid, match=key):
        load_workspace(repo)


def test_anchors_may_be_merged_and_overridden(tmp_path: Path) -> None:
    repo = _write(tmp_path / "repo", _modalities())
    lines = [
        "scenarios:",
        '  a: &a {domain: risk, query: "Will it happen?"}',
        "  b: {<<: *a, domain: marketing}",
    ]
    (repo / "scenarios.yaml").write_text("\n".join(lines))
    assert [spec.domain for spec in load_workspace(repo).scenarios.values()] == ["risk", "marketing"]
