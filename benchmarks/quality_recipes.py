"""Settings of each data set's model, chosen on inner folds, never on test folds."""

from dataclasses import replace

from benchmarks.quality_model import Recipe
from qanchor.training.pretrain import PretrainConfig
from qanchor.training.tune import TuneConfig
from qanchor.training.useru.pairs import UserUConfig
from qanchor.training.useru.summaries import SummaryShares

# Shares of the kinds of questions, in the order of Kind: mostly the scenarios' queries.
_SHARES = (0.25, 0.15, 0.05, 0.4, 0.05, 0.05, 0.05)
# Labels depend on how often, how much and how soon; less on the texts than in a world of many services. Most
# events are hidden in a step: with half of them visible the model memorises 4,000 users.
_RETAIL = Recipe(
    PretrainConfig(
        steps=1_000,
        points=96,
        learning_rate=2e-3,
        contrastive_weight=0.2,
        next_token_weight=0.2,
        summary_weight=6.0,
        event_dropout=0.85,
        aggregate_dropout=0.3,
        useru=UserUConfig(
            most_points=40_000,
            horizons_days=(30, 90),
            questions=2,
            shares=_SHARES,
            summary=SummaryShares(topics=0.0, counts=0.1, days=0.0, amounts=0.3, numbers=0.0, levels=0.6),
        ),
    ),
    TuneConfig(learning_rate=5e-3, steps=160),
)
# A month's status has one or two words, and all users have the same number of statements.
_CREDIT = Recipe(
    PretrainConfig(
        steps=280,
        points=128,
        contrastive_weight=1.0,
        summary_weight=6.0,
        aggregate_dropout=0.2,
        useru=UserUConfig(
            most_points=60_000,
            horizons_days=(30,),
            questions=2,
            shares=_SHARES,
            summary=SummaryShares(
                topics=0.0, counts=0.0, days=0.0, amounts=0.15, numbers=0.15, levels=0.3, terms=0.4
            ),
        ),
    ),
    TuneConfig(learning_rate=5e-3, most_rows=24_000),
)
_QUICK_STEPS = 60


def recipe_of(name: str, quick: bool = False) -> Recipe:
    """The recipe of a data set.

    Args:
        name: name of the data set.
        quick: whether to train a tenth as long.
    """
    recipe = {"online_retail": _RETAIL, "uci_credit_default": _CREDIT}[name]
    if not quick:
        return recipe
    return Recipe(replace(recipe.pretrain, steps=_QUICK_STEPS), replace(recipe.tune, steps=40))
