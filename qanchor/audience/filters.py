"""Filters on features: one yes-or-no SQL expression, evaluated where it can neither read nor write a file.

DuckDB parses the expression; every node has to be on a list of harmless ones, anything else is refused. It
then runs on a table in memory, on a connection that can reach nothing else.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qanchor.audience.features import OfflineFeatures
from qanchor.audience.filter_sql import LIKE_ESCAPES, FilterSql, parse, without_nan
from qanchor.audience.population import Mask
from qanchor.errors import FilterInvalid, did_you_mean
from qanchor.names import USER_ID
from qanchor.storage.sql import Connection, DatabaseError, connect

_CLASSES = {"COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "BETWEEN", "OPERATOR", "CAST", "CASE"}
# Deterministic, and their results no longer than their arguments.
_FUNCTIONS = {
    *("+", "-", "*", "/", "//", "%", "**", "^", "||"),
    *("~~", "!~~", "~~*", "!~~*", "regexp_matches", "regexp_full_match"),
    *("contains", "starts_with", "prefix", "suffix", "ends_with", "lower", "upper", "trim", "length"),
    *("abs", "sign", "round", "floor", "ceil", "ln", "log", "log10", "log2", "exp", "sqrt", "pow", "power"),
    *("greatest", "least", "nullif", "isnan", "isfinite", "isinf"),
    *LIKE_ESCAPES,
}
_LONGEST = 10_000
_SECONDS = 300.0
_REMEDY = "Write one condition, such as \"act_bill_count_30d >= 5 AND prof_age_band = '26-35'\"."
_SANDBOX = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": "4GB",
}


@dataclass(frozen=True)
class FeatureFilter:
    """A valid filter.

    Args:
        text: SQL expression.
        columns: features that it names, as they are spelt in the views.
    """

    text: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class FilterResult:
    """The users who pass a filter.

    Args:
        passes: bool [users].
        undecided: number of users for whom the expression is null, because a feature is missing or a quotient
            undefined; they do not pass.
    """

    passes: Mask
    undecided: int


def parse_filter(text: str, columns: Mapping[str, Any]) -> FeatureFilter:
    """Check an expression without running it.

    Args:
        text: SQL expression.
        columns: known features, by name.

    Raises:
        FilterInvalid: it is not one expression, names anything but features, or uses what is not allowed:
            subqueries, tables, files, aggregates, or functions that are not on the list.
    """
    if len(text) > _LONGEST:
        raise FilterInvalid(
            f"the filter is longer than {_LONGEST:,} characters", "Use --exclude FILE for long lists."
        )
    with connect(config=_SANDBOX) as connection:
        statement, plain = (parse(connection, _query(each)) for each in (text, "TRUE"))
    expression = statement["select_list"].pop(0)
    plain["select_list"].pop(0)
    if _without_locations(statement) != _without_locations(plain):
        raise FilterInvalid(f"the filter is more than one expression: {_shown(text)}", _REMEDY)
    known = {name.lower(): name for name in (*columns, USER_ID)}
    named = dict.fromkeys(_columns(expression, known))
    return FeatureFilter(text, tuple(named))


def apply_filter(condition: FeatureFilter, features: OfflineFeatures, users: pa.Array) -> FilterResult:
    """Which users pass a filter, at the features' moment.

    Args:
        condition: result of `parse_filter`.
        features: features of the users.
        users: string [users], distinct.

    Raises:
        FilterInvalid: the expression is not a yes-or-no one, or fails on a value; the message says how.
        NotReady: a view was never applied; run `feast apply`.
    """
    return evaluate_filter(condition, features.read(users, [c for c in condition.columns if c != USER_ID]))


def evaluate_filter(condition: FeatureFilter, table: pa.Table, seconds: float = _SECONDS) -> FilterResult:
    """Which rows of a table pass a filter.

    Args:
        condition: result of `parse_filter`.
        table: feature rows with the filter's columns; NaN in them is missing, as null is.
        seconds: longest time that it may take.

    Raises:
        FilterInvalid: the expression is not a yes-or-no one, fails on a value, or takes too long.
    """
    with connect(config=_SANDBOX) as connection:
        connection.register("features", without_nan(table))
        connection.execute("SET ieee_floating_point_ops = false")  # a quotient by zero is null
        connection.execute("SET lock_configuration = true")
        types = {field.name: field.type for field in table.schema}
        query = FilterSql(connection, types).rewritten(_query(condition.text))
        try:
            result = _run(connection, query, seconds)["passes"]
        except DatabaseError as error:
            raise FilterInvalid(f"the filter does not work: {_reason(error)}", _REMEDY) from error
    if not pa.types.is_boolean(result.type):
        raise FilterInvalid(f"the filter gives a {result.type!s}, not yes or no", _REMEDY)
    passes = np.asarray(result.fill_null(False)).astype(bool)
    return FilterResult(passes, result.null_count)


def _run(connection: Connection, query: str, seconds: float) -> pa.Table:
    """The result of a query; Ctrl-C and the time limit end it."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: connection.execute(query).to_arrow_table())
        try:
            return running.result(seconds)
        except TimeoutError:
            connection.interrupt()
            raise FilterInvalid(f"the filter takes longer than {seconds:g} seconds", _REMEDY) from None
        except KeyboardInterrupt:
            connection.interrupt()
            raise


def _query(text: str) -> str:
    # The closing bracket has a line of its own: a comment at the end of the text cannot swallow it.
    return f"SELECT (\n{text}\n) AS passes FROM features"


def _columns(expression: object, known: Mapping[str, str]) -> Iterator[str]:
    """The features that an expression names; everything in it is checked on the way."""
    for part in _parts(expression):
        kind, function = part["class"], part.get("function_name")
        if kind == "COLUMN_REF":
            yield _known_column(part["column_names"], known)
        elif kind == "FUNCTION":
            schema = part.get("schema") if function not in LIKE_ESCAPES else ""  # DuckDB writes main itself
            if function not in _FUNCTIONS or schema or part.get("catalog"):
                raise FilterInvalid(f"the filter may not use the function {function}", _REMEDY)
        elif kind not in _CLASSES:
            word = {"SUBQUERY": "a subquery", "WINDOW": "a window function", "STAR": "a star"}.get(kind)
            raise FilterInvalid(f"the filter may not hold {word or kind.lower()}", _REMEDY)


def _known_column(path: list[str], known: Mapping[str, str]) -> str:
    name = ".".join(path)
    if len(path) != 1 or name.lower() not in known:
        hint = did_you_mean(name, known.values())
        raise FilterInvalid(f"there is no feature {name!r}", f"{hint}Features: {', '.join(known.values())}.")
    return known[name.lower()]


def _parts(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "class" in value and "type" in value:
            yield value
        for inner in value.values():
            yield from _parts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _parts(inner)


def _without_locations(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_locations(inner) for name, inner in value.items() if name != "query_location"}
    return [_without_locations(inner) for inner in value] if isinstance(value, list) else value


def _shown(text: str) -> str:
    return repr(" ".join(text.split())[:80])


def _reason(error: DatabaseError) -> str:
    """The first sentence that DuckDB says, without its pointer into the text."""
    return " ".join(str(error).split("LINE 1:")[0].split("\n\n")[0].split())
