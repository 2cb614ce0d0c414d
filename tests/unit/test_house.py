"""The shape of the product's code: short files and functions, no anonymous bundles, no banned names."""

import ast
from functools import cache
from pathlib import Path

import pytest

from benchmarks.house import Shape, is_mixed_tuple, measure

_ROOT = Path(__file__).parents[2]


@cache
def _shape() -> Shape:
    return measure(_ROOT)


def test_the_product_was_read() -> None:
    assert _shape().lines > 10_000
    assert _shape().parameters > 1_000


@pytest.mark.parametrize(
    ("annotation", "mixed"),
    [
        ("tuple[Path, int]", True),
        ("tuple[Path, int] | None", True),
        ("tuple[int, int]", False),
        ("tuple[int, ...]", False),
        ("list[tuple[Path, int]]", False),
    ],
)
def test_a_tuple_of_different_types_is_recognised(annotation: str, mixed: bool) -> None:
    assert is_mixed_tuple(ast.parse(annotation, mode="eval").body) is mixed


def test_no_parameter_is_a_tuple_of_different_types() -> None:
    assert _shape().mixed_tuples == []


def test_no_file_has_more_than_400_lines() -> None:
    assert _shape().files_over_400 == []


def test_no_function_has_more_than_60_lines() -> None:
    assert _shape().functions_over_60 == []


@pytest.mark.parametrize("name", ["Surroundings", "asked", "told", "around"])
def test_a_name_says_what_the_thing_is(name: str) -> None:
    assert _shape().names[name] == 0
