"""How each data set's model is trained: chosen on inner folds, never on test folds."""

from dataclasses import replace

from benchmarks.quality_model import Recipe
from qanchor.training.pretrain import PretrainConfig
from qanchor.training.tune import TuneConfig
from qanchor.training.useru.pairs import UserUConfig

_RETAIL = Recipe(
    PretrainConfig(steps=600, useru=UserUConfig(most_points=40_000, horizons_days=(30, 60, 90))),
    TuneConfig(learning_rate=5e-3),
)
_CREDIT = Recipe(
    PretrainConfig(steps=600, useru=UserUConfig(most_points=60_000, horizons_days=(30, 60, 90))),
    TuneConfig(learning_rate=5e-3, most_rows=24_000),
)
_QUICK_STEPS = 60


def recipe_of(name: str, quick: bool = False) -> Recipe:
    """The recipe of a data set.

    Args:
        name: of the data set.
        quick: train a tenth as long.
    """
    recipe = {"online_retail": _RETAIL, "uci_credit_default": _CREDIT}[name]
    if not quick:
        return recipe
    return Recipe(replace(recipe.pretrain, steps=_QUICK_STEPS), replace(recipe.tune, steps=40))
