"""The error tree: every error carries its remedy and an exit code that scripts can tell apart."""

import inspect

import pytest

from qanchor import errors

_CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, errors.QAnchorError)
]


@pytest.mark.parametrize("kind", _CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_is_in_the_tree_drawn_at_the_top(kind: type[errors.QAnchorError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


def test_message_is_problem_then_remedy() -> None:
    error = errors.NotReady("no model yet", "Run `qanchor-cli pretrain`.")
    assert str(error) == "no model yet. Run `qanchor-cli pretrain`."


@pytest.mark.parametrize(
    ("kind", "code"), [(errors.InputError, 2), (errors.StateError, 3), (errors.StoreUnavailable, 4)]
)
def test_exit_codes_tell_the_three_kinds_apart(kind: type[errors.QAnchorError], code: int) -> None:
    assert kind("x", "y").exit_code == code
