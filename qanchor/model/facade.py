"""The library in three lines: load a model, pass a table of events and a query, get vectors."""

import warnings
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.errors import EventsInvalid, InputError
from qanchor.events.files import open_event_file
from qanchor.events.history import EventArrays, arrays_from_table
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.inference import load_for_inference
from qanchor.model.soft_prompt import load_prompt
from qanchor.model.space import narrowed
from qanchor.times import read_moment, to_microseconds
from qanchor.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")
R = TypeVar("R")


def _accept_question(embed: Callable[P, R]) -> Callable[P, R]:
    """Take the keyword `question` of 0.1.0 for `query`, with a warning."""

    @wraps(embed)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if "question" in kwargs:
            warnings.warn("`question` is now `query`; pass query=...", DeprecationWarning, stacklevel=2)
            kwargs["query"] = kwargs.pop("question")
        return embed(*args, **kwargs)

    return call


class UserModel:
    """A saved model that embeds users for any query.

    Args:
        loaded: the model in memory.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._embedder = UserEmbedder(loaded)

    @_accept_question
    def embed(
        self,
        events: "str | Path | pa.Table | pd.DataFrame",
        query: str,
        as_of: datetime | str | None = None,
        prompt: str | Path | None = None,
        width: int | None = None,
    ) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
        """One vector for every user of a table of events.

        Args:
            events: path of a Parquet or CSV file, pyarrow table or pandas DataFrame with the columns user_id,
                event_time, modality and the modalities' fields, as `qanchor-cli events load` takes them.
            query: the scenario in words, such as "Will this user buy a concert ticket in the next 30 days?".
            as_of: cut-off, UTC; only events before it are read; None: just after the last event.
            prompt: folder of a soft prompt that was tuned for the query on this model.
            width: one of the model's nested widths; None: the whole vector.

        Returns:
            User ids, object [users], and unit vectors, float32 [users, width].

        Raises:
            InputError: the model was not trained for that width, or as_of is no date.
            EventsInvalid: the events cannot be read; the message says what is wrong.
            CheckpointInvalid: the prompt is damaged or of another model.
        """
        config = self.loaded.config
        kept = config.embedding_width if width is None else width
        if kept not in config.widths:
            known = ", ".join(map(str, config.widths))
            raise InputError(f"the model has no width {kept}", f"Its widths are {known}.")
        arrays = _arrays(events, config.workspace())
        if not len(arrays.users):
            raise EventsInvalid("there are no events", "Pass a table with at least one row.")
        cutoff = int(arrays.last_times().max()) + 1 if as_of is None else to_microseconds(read_moment(as_of))
        soft_prompt = None if prompt is None else load_prompt(Path(prompt)).prompt
        rows = np.arange(len(arrays.users))
        vectors = self._embedder.embed(arrays, rows, np.full(len(rows), cutoff), [Query(query, soft_prompt)])
        return arrays.users, narrowed(vectors[0], kept)


def load(path: str | Path, device: str = "auto", precision: str = "auto") -> UserModel:
    """A saved model, ready to embed users.

    Args:
        path: folder that `qanchor-cli pretrain` wrote, below `.qanchor/models`.
        device: auto, cpu, cuda, ...
        precision: auto, float32, bfloat16 or, on a CPU, int8.

    Raises:
        CheckpointInvalid: it is not there, damaged, or of another format version.
        WorkspaceInvalid: int8 was requested on a GPU.
    """
    return UserModel(load_for_inference(Path(path), device, precision))


def _arrays(events: "str | Path | pa.Table | pd.DataFrame", workspace: Workspace) -> EventArrays:
    if not isinstance(events, str | Path):
        return arrays_from_table(events, workspace)
    file = open_event_file(Path(events))
    tables = list(file.batches())
    if file.torn:
        raise EventsInvalid(
            f"{events} has {len(file.torn):,} lines that are no row: {file.torn[0].detail}",
            "Fix them or leave them out.",
        )
    if not tables:
        raise EventsInvalid(f"{events} holds no rows", "Pass a file with at least one event.")
    return arrays_from_table(pa.concat_tables(tables), workspace, is_text=file.is_text)
