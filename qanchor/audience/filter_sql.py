"""The SQL that a filter runs as: the user's expression, in which NaN has no rank and no pattern takes long.

DuckDB orders NaN above every number, so that a condition on an undefined quotient holds: here NaN becomes
null. Its LIKE takes exponential time on many wildcards: here patterns become regular expressions, which RE2
matches in linear time.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from qanchor.errors import FilterInvalid
from qanchor.storage.sql import Connection, literal

Node = dict[str, Any]

_DEEPEST: Final = 150
_REMEDY: Final = "Write a shorter condition, or compute the value in a feature."
LIKE_ESCAPES: Final = ("like_escape", "not_like_escape", "ilike_escape", "not_ilike_escape")
_MAY_GIVE_NAN: Final = {"+", "-", "*", "/", "%", "**", "^", "pow", "power"}
_LIKE: Final = {  # by operator: negated, without case
    "~~": (False, False), "!~~": (True, False), "~~*": (False, True), "!~~*": (True, True),
    "like_escape": (False, False), "not_like_escape": (True, False),
    "ilike_escape": (False, True), "not_ilike_escape": (True, True),
}  # fmt: skip
# x is computed once, whatever its type is.
_KNOWN: Final = (
    "list_extract(list_transform([x], lambda v:"
    " CASE WHEN v::VARCHAR IN ('nan', '-nan') THEN NULL ELSE v END), 1)"
)
_NAN: Final = re.compile(r"\s*[+-]?nan\s*", re.IGNORECASE)


def parse(connection: Connection, query: str) -> Node:
    """The tree of one SELECT, as DuckDB serialises it.

    Raises:
        FilterInvalid: it is no SQL, more than one statement, or nested too deeply.
    """
    serialised = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0]
    try:
        content: Node = json.loads(serialised)
    except RecursionError:
        raise _too_deep() from None
    if content["error"]:
        raise FilterInvalid(
            f"the filter is no SQL expression: {content['error_message']}",
            "Write one condition, such as \"act_bill_count_30d >= 5 AND prof_age_band = '26-35'\".",
        )
    if len(content["statements"]) != 1:
        raise FilterInvalid("the filter is more than one statement", "Write one condition.")
    node: Node = content["statements"][0]["node"]
    _check_depth(node)
    return node


def _too_deep() -> FilterInvalid:
    return FilterInvalid(f"the filter is nested more than {_DEEPEST} levels deep", _REMEDY)


def _check_depth(node: Node) -> None:
    # Not by recursion: it is what Python would fail at.
    waiting: list[tuple[object, int]] = [(node, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _DEEPEST:
            raise _too_deep()
        if isinstance(value, dict):
            deeper = depth + ("class" in value and "type" in value)
            waiting += [(inner, deeper) for inner in value.values()]
        elif isinstance(value, list):
            waiting += [(inner, depth) for inner in value]


def without_nan(table: pa.Table) -> pa.Table:
    """The table with null in place of NaN: a missing number has no rank."""
    for position, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            values = table.column(position)
            known = pc.if_else(pc.is_nan(values), pa.scalar(None, field.type), values)
            table = table.set_column(position, field.name, known)
    return table


class FilterSql:
    """Rewrites filters.

    Args:
        connection: parses and prints SQL; it need not hold any table.
        types: the Arrow type of each feature.
    """

    def __init__(self, connection: Connection, types: Mapping[str, pa.DataType]) -> None:
        self._connection = connection
        self._numbers = {n.lower() for n, kind in types.items() if not pa.types.is_string(kind)}
        self._known = self._expression(_KNOWN)

    def rewritten(self, query: str) -> str:
        """The query to run in place of a SELECT of one filter.

        Raises:
            FilterInvalid: it compares a number with NaN, or LIKE has a pattern that is no written text.
        """
        serialised = self._connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0]
        content: Node = json.loads(serialised)
        node = content["statements"][0]["node"]
        node["select_list"] = [self._rewrite(part) for part in node["select_list"]]
        printed = self._connection.execute("SELECT json_deserialize_sql(?)", [json.dumps(content)])
        return str(printed.fetchall()[0][0])

    def _rewrite(self, value: object) -> Any:
        if isinstance(value, list):
            return [self._rewrite(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        self._refuse_nan_constants(value)
        node = {name: self._rewrite(inner) for name, inner in value.items()}
        if node.get("class") == "FUNCTION" and node["function_name"] in _LIKE:
            return self._as_regular_expression(node)
        if node.get("class") == "FUNCTION" and node["function_name"] in _MAY_GIVE_NAN:
            return {**_filled(self._known, node), "alias": node["alias"]}
        if node.get("class") == "CAST" and node["cast_type"]["id"] in ("DOUBLE", "FLOAT"):
            return {**_filled(self._known, node), "alias": node["alias"]}
        return node

    def _expression(self, text: str) -> Node:
        node: Node = parse(self._connection, f"SELECT {text}")["select_list"][0]
        return node

    def _as_regular_expression(self, node: Node) -> Node:
        negated, without_case = _LIKE[node["function_name"]]
        subject, *rest = node["children"]
        texts = [_text_of(part) for part in rest]
        if any(text is None for text in texts):
            raise FilterInvalid("the pattern of LIKE is not a written text", "Write it, such as LIKE 'a%'.")
        pattern, escape = str(texts[0]), str(texts[1]) if len(texts) > 1 else ""
        expression = _regular_expression(pattern, escape, without_case)
        word = "NOT " if negated else ""
        template = self._expression(f"{word}regexp_full_match(x, {literal(expression)})")
        return {**_filled(template, subject), "alias": node["alias"]}

    def _refuse_nan_constants(self, node: Node) -> None:
        """Text that reads as NaN becomes one where it is compared with a number."""
        if node.get("class") not in ("COMPARISON", "BETWEEN", "OPERATOR", "FUNCTION"):
            return
        operands = [part for part in _operands(node) if isinstance(part, dict)]
        texts = [text for part in operands if (text := _text_of(part)) is not None and _NAN.fullmatch(text)]
        if texts and any(self._is_number(part) for part in operands):
            raise FilterInvalid(
                f"the filter compares a number with {texts[0]!r}", "Write `... IS NULL` for a missing number."
            )

    def _is_number(self, node: Node) -> bool:
        if node["class"] == "COLUMN_REF":
            return ".".join(node["column_names"]).lower() in self._numbers
        if node["class"] == "FUNCTION":
            return node["function_name"] not in {"||", "lower", "upper", "trim"}
        return bool(node["class"] == "CAST" and node["cast_type"]["id"] != "VARCHAR")


def _operands(node: Node) -> Iterator[Any]:
    for name in ("left", "right", "input", "lower", "upper"):
        yield node.get(name)
    yield from node.get("children") or ()


def _text_of(node: Node) -> str | None:
    """The text of a constant; None for anything else."""
    if node["class"] == "CONSTANT" and node["value"]["type"]["id"] == "VARCHAR":
        return str(node["value"]["value"])
    return None


def _filled(template: object, node: Node) -> Any:
    """The template with the node in place of its column x."""
    if isinstance(template, list):
        return [_filled(inner, node) for inner in template]
    if not isinstance(template, dict):
        return template
    if template.get("class") == "COLUMN_REF" and template["column_names"] == ["x"]:
        return {**node, "alias": ""}
    return {name: _filled(inner, node) for name, inner in template.items()}


def _regular_expression(pattern: str, escape: str, without_case: bool) -> str:
    """A LIKE pattern as a regular expression of RE2."""
    parts, letters = [], iter(pattern)
    for letter in letters:
        if escape and letter == escape:
            letter = next(letters, "")  # noqa: PLW2901
            parts.append(re.escape(letter))
        elif letter == "%":
            if parts[-1:] != [".*"]:
                parts.append(".*")
        else:
            parts.append("." if letter == "_" else re.escape(letter))
    return f"(?{'i' if without_case else ''}s){''.join(parts)}"
