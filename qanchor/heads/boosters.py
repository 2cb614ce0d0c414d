"""One or several LightGBM boosters whose raw scores are averaged, kept as LightGBM's own text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Boosters:
    """Boosters of the same columns.

    Args:
        members: lightgbm.Booster each, cut at its best round.
    """

    members: tuple[Any, ...]

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> "Boosters":
        """The boosters of their texts.

        Raises:
            ValueError: a text is none of LightGBM's.
        """
        import lightgbm

        try:
            return cls(tuple(lightgbm.Booster(model_str=text) for text in texts))
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(str(error)) from error

    @property
    def texts(self) -> list[str]:
        """LightGBM's text of each."""
        return [member.model_to_string() for member in self.members]

    @property
    def rounds(self) -> tuple[int, ...]:
        """Trees of each."""
        return tuple(int(member.num_trees()) for member in self.members)

    def raw(self, features: Floats, threads: int = 0) -> NDArray[np.float64]:
        """Mean raw score, (rows,).

        Args:
            features: (rows, features); NaN is missing.
            threads: of LightGBM; 0: as many as the process may use.
        """
        scores = [member.predict(features, raw_score=True, num_threads=threads) for member in self.members]
        return np.asarray(np.mean(scores, axis=0), dtype=np.float64)

    def contributions(self, features: Floats) -> NDArray[np.float64]:
        """How far each feature moves the raw score from the base (SHAP), (rows, features + 1).

        The last column is the base; a row sums to its raw score.

        Args:
            features: (rows, features); NaN is missing.
        """
        parts = [member.predict(features, pred_contrib=True) for member in self.members]
        return np.asarray(np.mean(parts, axis=0), dtype=np.float64)
