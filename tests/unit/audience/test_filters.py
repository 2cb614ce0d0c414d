"""A filter is one harmless yes-or-no expression, decided by what was known at the embeddings' cut-off."""

import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.audience.features import OfflineFeatures
from qanchor.audience.filters import apply_filter, evaluate_filter, parse_filter
from qanchor.errors import FilterInvalid
from qanchor.names import ACTIVITY_VIEW
from qanchor.storage.point_in_time import read_rows, rows_as_of
from qanchor.storage.sql import connect_table
from tests.unit.audience.worlds import AS_OF, write_features

COLUMNS = {"act_a": "v", "prof_b": "v"}
TABLE = pa.table({"user_id": ["u", "v", "w"], "act_a": [1.0, 5.0, None], "prof_b": ["x", "yy", None]})


@pytest.mark.parametrize(
    ("text", "passes", "undecided"),
    [
        ("act_a > 2", [False, True, False], 1),
        ("ACT_A > 2 OR prof_b = 'x'", [True, True, False], 1),
        ("prof_b LIKE 'y%' -- and a comment", [False, True, False], 1),
        ("coalesce(act_a, 0) BETWEEN 0 AND 1", [True, False, True], 0),
        ("prof_b IN ('x', 'z') AND NOT act_a IS NULL", [True, False, False], 0),
        ("CASE WHEN act_a > 1 THEN true ELSE false END", [False, True, False], 0),
        ("user_id = 'w'", [False, False, True], 0),
    ],
)
def test_a_condition_decides_user_by_user(text: str, passes: list[bool], undecided: int) -> None:
    result = evaluate_filter(parse_filter(text, COLUMNS), TABLE)
    assert (result.passes.tolist(), result.undecided) == (passes, undecided)


UNDEFINED = pa.table(
    {
        "user_id": ["none", "some", "much", "gap"],
        "act_a": [0.0, 40.0, 800.0, float("nan")],
        "act_b": [0.0, 1.0, 2.0, 3.0],
        "prof_b": ["nan", "NaN", "x", None],
    }
)


@pytest.mark.parametrize(
    ("text", "passes", "undecided"),
    [
        ("act_a / act_b > 50", ["much"], 2),
        ("act_a / act_b >= 50 OR act_b = 0", ["none", "much"], 1),
        ("NOT act_a / act_b <= 50", ["much"], 2),
        ("50 < act_a / act_b", ["much"], 2),
        ("act_b % act_b > -1", ["some", "much", "gap"], 1),
        ("act_a / act_b BETWEEN 50 AND 1e300", ["much"], 2),
        ("act_a / act_b <> 1", ["some", "much"], 2),
        ("act_a / act_b IN (40, 400)", ["some", "much"], 2),
        ("greatest(act_a / act_b, 1) > 50", ["much"], 0),
        ("abs(round(act_a / act_b)) > 50", ["much"], 2),
        ("CASE WHEN act_a / act_b > 50 THEN true ELSE false END", ["much"], 0),
        ("act_a > 50", ["much"], 1),
        ("pow(act_b - 2, 0.5) >= 0", ["much", "gap"], 2),
        ("(act_b - 2) ** 0.5 >= 0", ["much", "gap"], 2),
        ("1e308 * 10 * act_b - 1e308 * 10 * act_b > 0", [], 4),
        ("TRY_CAST(prof_b AS DOUBLE) > 50", [], 4),
        ("act_a / act_b IS NULL", ["none", "gap"], 0),
        ("isnan(act_a / act_b)", [], 2),
        ("prof_b = 'nan'", ["none"], 1),
    ],
)
def test_what_is_undefined_has_no_rank(text: str, passes: list[str], undecided: int) -> None:
    result = evaluate_filter(parse_filter(text, dict.fromkeys(UNDEFINED.schema.names, "v")), UNDEFINED)
    assert UNDEFINED["user_id"].filter(pa.array(result.passes)).to_pylist() == passes
    assert result.undecided == undecided


@pytest.mark.parametrize("text", ["act_a < 'nan'", "act_a / act_b < 'NaN'", "greatest(act_a, 'nan') > 5"])
def test_a_number_is_not_compared_with_nan(text: str) -> None:
    with pytest.raises(FilterInvalid, match=r"(?i)compares a number with 'nan'"):
        evaluate_filter(parse_filter(text, dict.fromkeys(UNDEFINED.schema.names, "v")), UNDEFINED)


TEXTS = ["", "a", "ab", "a%b", "aXb", "a.b", "A\nB", "ä_c", "_", "aaa%"]


@pytest.mark.parametrize(
    "condition",
    [
        *("LIKE 'a%'", "LIKE '%'", "LIKE ''", "LIKE 'a_b'", "LIKE 'a.b'", "ILIKE 'A%B'", "NOT LIKE '%b'"),
        *("NOT ILIKE 'a%'", "LIKE 'a!%b' ESCAPE '!'", "NOT LIKE 'a!%b' ESCAPE '!'", "LIKE '_\\_c'"),
        *("LIKE '(a|b)*'", "LIKE '%a%%'", "ILIKE 'Ä%'"),
    ],
)
def test_a_pattern_matches_what_duckdb_matches(condition: str) -> None:
    table = pa.table({"user_id": TEXTS, "prof_b": TEXTS})
    result = evaluate_filter(parse_filter(f"prof_b {condition}", COLUMNS), table)
    with connect_table(table) as plain:
        expected = plain.execute(f"SELECT prof_b {condition} FROM events").fetchall()
    assert result.passes.tolist() == [row[0] for row in expected]


def test_a_pattern_of_many_wildcards_ends() -> None:
    table = pa.table({"user_id": ["u"] * 2_000, "prof_b": ["a" * 256] * 2_000})
    text = f"prof_b LIKE '{'%a' * 18}%b'"
    began = time.monotonic()
    assert not evaluate_filter(parse_filter(text, COLUMNS), table).passes.any()
    assert time.monotonic() - began < 20


def test_a_filter_has_bounds_on_depth_and_time() -> None:
    for text in ("||".join(["prof_b"] * 900) + " = 'x'", "+".join(["act_a"] * 400) + " > 1"):
        with pytest.raises(FilterInvalid, match="nested more than 150 levels"):
            parse_filter(text, COLUMNS)
    with pytest.raises(FilterInvalid, match="LIKE is not a written text"):
        evaluate_filter(parse_filter("prof_b LIKE prof_b", COLUMNS), TABLE)
    table = pa.table({"user_id": ["u"] * 400_000, "prof_b": ["a" * 256] * 400_000})
    slow = " OR ".join(f"regexp_matches(prof_b, '(a|b){{1,20}}c{i}')" for i in range(60))
    with pytest.raises(FilterInvalid, match="takes longer than"):
        evaluate_filter(parse_filter(slow, COLUMNS), table, seconds=0.2)


@pytest.mark.parametrize(
    "text",
    [
        "(SELECT count(*) FROM 'secret.csv') > 0",
        "EXISTS (SELECT 1)",
        "act_a > ALL (SELECT 1)",
        "read_text('/etc/passwd') = ''",
        "getenv('HOME') = ''",
        "prof_b = repeat('x', 1000000000)",
        "random() > 0.5",
        "sum(act_a) > 1",
        "rank() OVER () > 1",
        "columns('act.*') > 1",
        "true; DROP TABLE features",
        "true) AS passes FROM features WHERE (true",
        "true) AS passes, (true",
        "true) AS passes FROM 'secret.csv' --",
        "true) AS passes FROM features; COPY features TO 'out.csv'; SELECT (true",
        "? > 1",
        "#1 > 1",
        "list_transform([1], lambda x: x) = [1]",
        "",
        "act_a >",
        "true, false",
        "NOT " * 2_000 + "true",
        "true OR " * 2_000 + "true",
    ],
)
def test_what_could_touch_more_than_the_features_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(FilterInvalid) as refused:
        evaluate_filter(parse_filter(text, COLUMNS), TABLE)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nope > 1", "no feature 'nope'. Features: act_a, prof_b"),
        ("features.act_a > 1", "no feature 'features.act_a'"),
        ("act_a", "gives a double, not yes or no"),
        ("act_a > 'x'", "does not work"),
        ("prof_b::INT > 1", "does not work"),
    ],
)
def test_a_condition_that_does_not_fit_the_features_says_how(text: str, said: str) -> None:
    with pytest.raises(FilterInvalid, match=said.replace("(", r"\(")):
        evaluate_filter(parse_filter(text, COLUMNS), TABLE)


def test_features_are_those_of_the_cut_off(tmp_path: Path) -> None:
    before, after, old = AS_OF - timedelta(days=1), AS_OF + timedelta(seconds=1), AS_OF - timedelta(days=91)
    features = write_features(
        tmp_path,
        [
            {"user_id": "a", "at": before, "bills": 1.0, "band": "young"},
            {"user_id": "a", "at": AS_OF, "bills": 7.0, "band": "old"},
            {"user_id": "a", "at": after, "bills": 50.0, "band": "leak"},
            {"user_id": "b", "at": before, "bills": 9.0, "band": "young"},
            {"user_id": "b", "at": before, "bills": 70.0, "band": "leak", "created": after},
            {"user_id": "c", "at": old, "bills": 9.0, "band": "young"},
        ],
    )
    users = pa.array(["d", "c", "b", "a"])
    table = features.read(users, ["prof_band", "act_bill_count_30d"])
    assert table["act_bill_count_30d"].to_pylist() == [None, None, 9.0, 7.0]
    assert table["prof_band"].to_pylist() == [None, None, "young", "old"]
    chosen = parse_filter("act_bill_count_30d > 5 AND prof_band = 'old'", features.columns)
    assert apply_filter(chosen, features, users).passes.tolist() == [False, False, False, True]


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(-200, 3), st.integers(0, 4), st.integers(0, 99)),
        max_size=14,
    )
)
def test_features_equal_the_general_point_in_time_join(
    rows: list[tuple[str, int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    written = [
        {
            "user_id": user,
            "at": AS_OF + timedelta(days=day),
            "created": AS_OF + timedelta(days=day + late),
            "bills": float(value),
            "band": None,
        }
        for user, day, late, value in rows
    ]
    features = write_features(tmp_path_factory.mktemp("views"), written)
    users = pa.array(["c", "a", "b"])
    found = features.read(users, ["act_bill_count_30d"])["act_bill_count_30d"].to_pylist()
    assert found == _joined(features, users)


def _joined(features: OfflineFeatures, users: pa.Array) -> list[float | None]:
    requests = pa.table({"user_id": users, "as_of": pa.array([AS_OF] * len(users))})
    ttl = timedelta(days=features.site.workspace.window_days)
    rows = rows_as_of(features.site.home.view(ACTIVITY_VIEW), requests, ttl)
    columns = pa.schema({"act_bill_count_30d": pa.float64()})
    joined: list[float | None] = read_rows(rows, columns)["act_bill_count_30d"].to_pylist()
    return joined
