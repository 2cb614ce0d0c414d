"""Modality tokens: the mean of the events, a mean that forgets, and numbers."""

import numpy as np
import torch

from qanchor.model.features import AGE_COLUMN
from tests.unit.model.worlds import make_world, random_arrays, slices_at

WORLD = make_world(5)


@torch.no_grad()
def test_modality_means_equal_a_slow_loop() -> None:
    arrays = random_arrays(3)
    batch = WORLD.batch(arrays, slices_at(arrays, [0, 1, 2, -1], [700, 400, 1000, 500]))
    encoder = WORLD.model.encoder
    vectors = encoder.event_vectors(batch)
    ages = torch.cat([part[:, AGE_COLUMN] for part in batch.numbers]) * WORLD.config.window_days
    means = encoder.modality_means(batch, vectors)
    modalities = batch.counts.shape[1]
    for user in range(batch.users):
        for modality in range(modalities):
            own = batch.segment == user * modalities + modality
            weights = torch.exp(-ages[own] / 14)
            recent = (weights[:, None] * vectors[own]).sum(0) / (weights.sum() + 0.05)
            mean = vectors[own].mean(0) if own.any() else torch.zeros(vectors.shape[1])
            summary = encoder.summaries[modality](batch.summary[modality][user])
            expected = mean + summary + encoder.recent[modality](recent)
            np.testing.assert_allclose(means[user, modality], expected, atol=1e-5)


def test_the_age_stands_where_the_mean_that_forgets_looks_for_it() -> None:
    arrays = random_arrays(3)
    slices = slices_at(arrays, [0], [900])
    batch = WORLD.batch(arrays, slices)
    for part, events, start, stop in zip(
        batch.numbers, arrays.modalities, slices.start[0], slices.stop[0], strict=True
    ):
        days = (slices.cutoff[0] - events.time[start:stop]) / 86_400_000_000
        np.testing.assert_allclose(part[:, AGE_COLUMN] * WORLD.config.window_days, days, rtol=1e-5)
