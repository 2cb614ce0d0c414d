"""The division of labelled rows into training, validation and test parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.errors import LabelsInvalid
from qanchor.events.labels import Labels, hash_share
from qanchor.names import AS_OF, SPLITS, USER_ID
from qanchor.times import DAY_US, from_microseconds

SplitBy = Literal["fold", "time", "user"]
Parts = NDArray[np.int8]
_TEST_SHARE, _VALID_SHARE = 0.2, 0.1


@dataclass(frozen=True)
class SplitRequest:
    """How to divide labelled rows into parts.

    Args:
        by: `fold`: the labels' split or fold column, or a hash of the user where they have neither; `time`:
            the latest rows are tested; `user`: a hash of the user, whatever columns there are.
        test_fold: fold of the test part, in place of the highest; for `fold` only.
        horizon_days: days after its time until a label is known; with `time`, rows known too late are left
            out.
        prompt_fold: test fold of the prompt behind the vectors; None without folds.
        tuned: whether there is such a prompt.
    """

    by: SplitBy = "fold"
    test_fold: int | None = None
    horizon_days: int = 0
    prompt_fold: int | None = None
    tuned: bool = False


@dataclass(frozen=True)
class Division:
    """The part of each row.

    Args:
        by: rule that divided the rows: `split`, `fold`, `user` or `time`.
        parts: index into SPLITS of each row; -1: left out, (rows,).
        test_fold: fold of the test part; None without folds.
        begins: first time of the valid and test parts, ISO 8601, where the split is by time.
        left_out: number of rows left out, by reason.
    """

    by: str
    parts: Parts
    test_fold: int | None = None
    begins: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


def divide(labels: Labels, request: SplitRequest) -> Division:
    """Assign every labelled row to a part, or leave it out.

    A row never goes to a later part than the one in which the vectors' prompt has seen it: a label that
    tuned the prompt is not tested on.

    Args:
        labels: labels of the scenario.
        request: rule of the division.

    Raises:
        LabelsInvalid: there is no such fold, there are no folds, the prompt has seen the test fold, or the
            rows have too few times for a split by time.
    """
    if request.by == "fold":
        return _by_columns(labels, request)
    if request.test_fold is not None:
        raise LabelsInvalid(
            f"--test-fold {request.test_fold} does not go with --split {request.by}", "Give one of the two."
        )
    division = _by_time(labels, request) if request.by == "time" else _by_user(labels)
    return _without_seen(labels, request, division) if request.tuned else division


def _by_columns(labels: Labels, request: SplitRequest) -> Division:
    fold = labels.test_fold(request.test_fold)
    if request.tuned and request.prompt_fold != fold:
        raise LabelsInvalid(
            f"the prompt of {labels.scenario} was tuned with test fold {request.prompt_fold} "
            f"and has seen labels of fold {fold}, which this head would be tested on",
            f"Tune and backfill {labels.scenario} with that fold, or take --test-fold {request.prompt_fold}.",
        )
    by = "user" if labels.divided_by == "hash" else labels.divided_by
    return Division(by, labels.part_indexes(fold), fold)


def _by_user(labels: Labels) -> Division:
    users = labels.table[USER_ID].to_pylist()
    shares = np.array([hash_share(user) for user in users])
    bounds = (1 - _TEST_SHARE - _VALID_SHARE, 1 - _TEST_SHARE)
    return Division("user", np.digitize(shares, bounds).astype(np.int8))


def _by_time(labels: Labels, request: SplitRequest) -> Division:
    moments = np.asarray(labels.table[AS_OF].cast(pa.int64()))
    test_from = _begin_of_last(moments, _TEST_SHARE, labels.scenario)
    # What became known after the test part began could not have been learnt from then.
    known = (moments < test_from) & (moments + request.horizon_days * DAY_US <= test_from)
    before = np.unique(moments[known])
    if len(before) < 2:
        raise LabelsInvalid(
            f"labels of {labels.scenario} have {len(before)} time(s) whose outcome, {request.horizon_days} "
            f"days later, was known when the test part begins on {_iso(test_from)[:10]}; a split by time "
            "needs two",
            "Load labels of earlier times, or split by fold or user.",
        )
    valid_from = _begin_of_last(moments[known], _VALID_SHARE / (1 - _TEST_SHARE), labels.scenario)
    parts = np.where(moments >= test_from, 2, np.where(moments >= valid_from, 1, 0)).astype(np.int8)
    unknown = (parts < 2) & ~known
    parts[unknown] = -1
    begins = {"valid": _iso(valid_from), "test": _iso(test_from)}
    return Division("time", parts, None, begins, _counted(not_yet_known_at_the_test=unknown))


def _begin_of_last(moments: NDArray[np.int64], share: float, scenario: str) -> int:
    """The time at which about the last `share` of the rows begins; never the first time."""
    times, counts = np.unique(moments, return_counts=True)
    if len(times) < 2:
        raise LabelsInvalid(
            f"labels of {scenario} all have the same time, {_iso(int(times[0]))[:10]}",
            "Load labels of several times, or split by fold or user.",
        )
    from_here = np.cumsum(counts[::-1])[::-1][1:]
    return int(times[1 + int(np.argmin(np.abs(from_here - share * len(moments))))])


def _without_seen(labels: Labels, request: SplitRequest, division: Division) -> Division:
    # The part in which the prompt's tuning used each row.
    earliest = labels.part_indexes(labels.test_fold(request.prompt_fold))
    seen = division.parts > earliest
    left_out = {**division.left_out, **_counted(seen_by_the_prompt=seen)}
    parts = np.where(seen, -1, division.parts).astype(np.int8)
    return replace(division, parts=parts, left_out=left_out)


def _counted(**rows: NDArray[np.bool_]) -> dict[str, int]:
    return {reason: int(mask.sum()) for reason, mask in rows.items() if mask.any()}


def _iso(micros: int) -> str:
    return from_microseconds(micros).isoformat()


def part_names(parts: Parts) -> list[str]:
    """The name of each row's part."""
    return [SPLITS[part] for part in parts]
