"""How much each event of a user pulls the embedding in a direction: gradient times input."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, slice_histories
from qanchor.model.batch import collate
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.embedder import Query, query_suffix
from qanchor.model.window import positions_within


@dataclass(frozen=True)
class EventSaliency:
    """The events that a vector has read, with their pull.

    Args:
        modality: index of each event's modality in EventArrays.modalities, int64 [events].
        row: row of that modality's arrays, int64 [events].
        pull: gradient times input, float64 [events]; above 0 where the event pulls along the direction.
    """

    modality: NDArray[np.int64]
    row: NDArray[np.int64]
    pull: NDArray[np.float64]


def event_saliency(
    loaded: LoadedModel,
    arrays: EventArrays,
    row: int,
    cutoff: int,
    query: Query,
    direction: NDArray[np.float64],
) -> EventSaliency:
    """The pull of every event that a user's vector reads, along all paths through the model.

    An event's vector enters its event token and the means of its modality and user; the gradient runs
    through all three. It is multiplied with the vector's distance from the mean of its modality's events, so
    that what all of them share counts for none.

    Args:
        loaded: the model.
        arrays: the events.
        row: row of the user in arrays.users.
        cutoff: microseconds UTC.
        query: text and soft prompt.
        direction: of the embedding space, float64 [width]; the vector is cut to a narrower one's width.
    """
    rows, cutoffs = (np.array([value], dtype=np.int64) for value in (row, cutoff))
    slices = slice_histories(arrays, rows, cutoffs, loaded.config.workspace())
    texts = loaded.tokenizer.tokenise_events(arrays.texts, loaded.config.text_encoder.max_tokens)
    device = loaded.runtime.device
    batch = collate(arrays, slices, texts, loaded.normaliser, loaded.config).to(device)
    encoder = loaded.model.encoder
    vectors = encoder.event_vectors(batch).detach().requires_grad_(True)
    prefix = loaded.model.backbone.prefix(encoder.assemble(batch, vectors), batch.lengths)
    vector = loaded.model.read_out(prefix, query_suffix(loaded, query))[0]
    target = torch.from_numpy(direction).to(vector)
    kept = torch.nn.functional.normalize(vector[: len(target)], dim=0)
    (gradient,) = torch.autograd.grad(kept @ target, vectors)
    counts = slices.stop[0] - slices.start[0]
    modality = np.repeat(np.arange(len(counts)), counts)
    event_rows = slices.start[0][modality] + positions_within(counts)
    inputs = vectors.detach() - _means(vectors.detach(), modality, len(counts))
    pull = (gradient * inputs).sum(dim=1).double().cpu().numpy()
    return EventSaliency(modality, event_rows, pull)


def _means(vectors: torch.Tensor, modality: NDArray[np.int64], modalities: int) -> torch.Tensor:
    """Each event's modality mean, [events, width]."""
    index = torch.from_numpy(modality).to(vectors.device)
    sums = vectors.new_zeros(modalities, vectors.shape[1]).index_add(0, index, vectors)
    counts = torch.bincount(index, minlength=modalities).clamp(min=1)[:, None].to(vectors)
    return (sums / counts)[index]
