"""Metrics of binary scores: separation, calibration, and their confidence intervals; numpy only.

`labels` are 0 or 1 and `scores` are finite, higher meaning likelier 1; both have shape (rows,).
"""

from qanchor.metrics.delong import AucTest, auc_interval, compare_auc, normal_quantile
from qanchor.metrics.drift import psi
from qanchor.metrics.probability import (
    CalibrationBins,
    brier,
    calibration_bins,
    expected_calibration_error,
    log_loss,
)
from qanchor.metrics.ranking import RocCurve, Separation, gain_at, ks, lift_at, pr_auc, roc_auc, roc_curve
from qanchor.metrics.resampling import (
    FIGURES,
    ROUNDING,
    SHARES,
    Bootstrap,
    Interval,
    bootstrap_intervals,
)
from qanchor.metrics.segments import Segment, compare_segments
from qanchor.metrics.tally import tally

__all__ = [
    "FIGURES",
    "ROUNDING",
    "SHARES",
    "AucTest",
    "Bootstrap",
    "CalibrationBins",
    "Interval",
    "RocCurve",
    "Segment",
    "Separation",
    "auc_interval",
    "bootstrap_intervals",
    "brier",
    "calibration_bins",
    "compare_auc",
    "compare_segments",
    "expected_calibration_error",
    "gain_at",
    "ks",
    "lift_at",
    "log_loss",
    "normal_quantile",
    "pr_auc",
    "psi",
    "roc_auc",
    "roc_curve",
    "tally",
]
