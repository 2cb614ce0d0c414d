"""Figures of the data sets' README, measured elsewhere: CoLES (pytorch-lifestream 0.7), on other folds."""

from collections.abc import Mapping

from benchmarks.quality_figures import Figures

# Linear probe on the embedding, 5 x 5-fold means.
COLES: Mapping[str, Figures] = {
    "mkt_repurchase30": Figures(0.7193, 0.355),
    "mkt_spend1000_90": Figures(0.8516, 0.571),
    "risk_return90": Figures(0.7415, 0.390),
    "eng_lapse90_active": Figures(0.7395, 0.399),
    "risk_default": Figures(0.7643, 0.402),
}
# On two shared cores.
COLES_SECONDS: Mapping[str, float] = {"online_retail": 930.0, "uci_credit_default": 201.0}
_TASKS = tuple(COLES)[:4]
# Fitted at 2011-06-11, tested at 2011-09-09; only AUCs are published.
OUT_OF_TIME: Mapping[str, Mapping[str, Figures]] = {
    row: {name: Figures(auc, float("nan")) for name, auc in zip(_TASKS, aucs, strict=True)}
    for row, aucs in {
        "LightGBM, aggregates (given)": (0.717, 0.851, 0.754, 0.750),
        "logistic, aggregates (given)": (0.726, 0.852, 0.756, 0.754),
        "linear probe, CoLES (given)": (0.716, 0.853, 0.746, 0.740),
    }.items()
}
