"""Collating: every token has its slot, in any order of users."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.model.batch import EventDropout, collate, prefix_lengths
from tests.unit.model.worlds import make_world, random_arrays, slices_at

WORLD = make_world()
ROWS = st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 1000)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.booleans(), st.booleans(), st.integers(0, 5))
def test_every_token_has_one_place_before_the_padding(
    requests: list[tuple[int, int]], user_token: bool, modality_tokens: bool, seed: int
) -> None:
    config = WORLD.config.model_copy(
        update={"use_user_token": user_token, "use_modality_tokens": modality_tokens}
    )
    arrays = random_arrays(seed)
    slices = slices_at(
        arrays, [r % len(arrays.users) if r >= 0 else -1 for r, _ in requests], [h for _, h in requests]
    )
    texts = WORLD.tokenizer.tokenise_events(arrays.texts)
    batch = collate(arrays, slices, texts, WORLD.normaliser, config)
    lengths = prefix_lengths(slices, config)
    expected = {user * batch.tokens + slot for user, length in enumerate(lengths) for slot in range(length)}
    assert sorted(batch.slot.tolist()) == sorted(expected)
    assert batch.lengths.tolist() == lengths.tolist()
    assert batch.tokens == max(lengths)


def test_events_stand_in_time_order_between_their_bounds() -> None:
    arrays = random_arrays(2)
    slices = slices_at(arrays, [0, 1], [960, 960])
    batch = WORLD.batch(arrays, slices)
    modalities = len(arrays.modalities)
    before = 1 + modalities + WORLD.config.tabular_tokens
    head = 2 * (before + 2 * modalities)
    events = batch.slot[head:] % batch.tokens
    starts = (batch.slot[2 * before : 2 * (before + modalities)] % batch.tokens).view(2, modalities)
    taken = 0
    for modality in range(modalities):
        for user in range(2):
            count = int(batch.counts[user, modality])
            first = int(starts[user, modality]) + 1
            assert events[taken : taken + count].tolist() == list(range(first, first + count))
            taken += count


def test_each_distinct_text_of_the_batch_stands_once() -> None:
    arrays = random_arrays(2)
    batch = WORLD.batch(arrays, slices_at(arrays, [0, 1, 2], [960] * 3))
    assert len(batch.texts) == len(set(batch.texts.tolist()))
    used = [arrays.texts[int(i)] for i in batch.texts[batch.text_index]]
    assert len(used) == int(batch.counts.sum())


def test_dropout_leaves_events_out_and_summaries_alone() -> None:
    arrays = random_arrays(2)
    slices = slices_at(arrays, [0, 1, 2, 3, 4], [960] * 5)
    texts = WORLD.tokenizer.tokenise_events(arrays.texts)
    whole = collate(arrays, slices, texts, WORLD.normaliser, WORLD.config)
    dropout = EventDropout(0.5, np.random.default_rng(0))
    part = collate(arrays, slices, texts, WORLD.normaliser, WORLD.config, dropout)
    assert 0 < int(part.counts.sum()) < int(whole.counts.sum())
    for one, other in zip(whole.summary, part.summary, strict=True):
        assert torch.equal(one, other)


def test_the_gap_does_not_look_beyond_the_slice() -> None:
    arrays = random_arrays(2)
    slices = slices_at(arrays, [0], [960])
    shorter = replace(slices, start=slices.stop - 1)
    gap_is_unknown = 2 * 2 + 3
    first = WORLD.batch(arrays, shorter).numbers[0]
    assert first[0, gap_is_unknown] == 1


@pytest.mark.parametrize("rows", [[-1], [-1, -1]])
def test_users_without_events_have_a_prefix(rows: list[int]) -> None:
    arrays = random_arrays(2)
    batch = WORLD.batch(arrays, slices_at(arrays, rows, [960] * len(rows)))
    assert batch.text_index.shape == (0,)
    assert (batch.lengths > 0).all()


def test_hidden_aggregates_count_as_the_mean_and_the_others_speak_louder() -> None:
    arrays = random_arrays(2)
    slices = slices_at(arrays, [0, 1, 2, 3, 4], [960] * 5)
    texts = WORLD.tokenizer.tokenise_events(arrays.texts)
    dropout = EventDropout(0.0, np.random.default_rng(0), aggregates=0.5)
    whole = collate(arrays, slices, texts, WORLD.normaliser, WORLD.config)
    part = collate(arrays, slices, texts, WORLD.normaliser, WORLD.config, dropout)
    hidden = part.tabular.isnan()
    assert 0.3 < float(hidden.float().mean()) < 0.7
    assert torch.equal(part.tabular[~hidden], whole.tabular[~hidden])
    tokens = WORLD.model.encoder.tabular
    louder = hidden.shape[1] / (~hidden).sum(1, keepdim=True)
    shown = torch.where(hidden, tokens.mean, part.tabular)
    scaled = ((shown - tokens.mean) / tokens.spread).clamp(-5, 5) * louder
    expected = tokens.encode(scaled).view(-1, WORLD.config.backbone.width)
    torch.testing.assert_close(tokens(part.tabular), expected)
    for one, other in zip(whole.summary, part.summary, strict=True):
        assert torch.equal(other[other != 0], (2 * one)[other != 0])
