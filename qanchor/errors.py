"""What can go wrong, in one tree. Every message ends with what to do about it.

QAnchorError
├── InputError                exit 2: the user's input is at fault
│   ├── WorkspaceInvalid      modalities.yaml, scenarios.yaml or a setting
│   ├── UnknownScenario       a scenario that scenarios.yaml does not name
│   ├── EventsInvalid         an event file that cannot be read or is empty
│   ├── LabelsInvalid         a label file that breaks its contract
│   │   └── PartIncomplete    labels with a part that lacks rows or one of the labels
│   ├── FeaturesInvalid       rows that the feature store refuses
│   ├── UserListInvalid       a file that should list users and does not
│   ├── SeedsInvalid          seeds that lookalike search cannot use
│   ├── FilterInvalid         a filter on features that is no yes-or-no expression, or that nobody passes
│   └── AudienceInvalid       a saved audience that is not there, or that cannot be made or combined so
├── StateError                exit 3: the command came too early, or things do not belong together
│   ├── NotReady              a step that has to run first
│   ├── CheckpointInvalid     a checkpoint that is damaged or of another version
│   ├── IndexInvalid          a vector index that is damaged, or vectors that none can be built of
│   ├── GatesFailed           new embeddings that a quality gate keeps out of service
│   ├── TopicRecreated        a Kafka topic that was deleted and created again
│   ├── OffsetsFenced         another consumer of the group owns the partition now
│   └── FingerprintMismatch   vectors of one embedding space met a consumer of another
├── TrainingDiverged          exit 1: the loss is not finite
├── BatchTooLarge             exit 1: a training batch does not fit in memory
└── StoreUnavailable          exit 4: a database, broker or disk that does not answer
    ├── BrokerUnavailable
    │   └── BrokerRefusal     brokers that answer, and refuse
    ├── DatabaseUnavailable
    ├── DiskFull
    └── WriterUnavailable     a language model that does not answer
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


class QAnchorError(Exception):
    """Base of every error that qanchor raises on purpose.

    Args:
        problem: one sentence, no newline, that names the value at fault.
        remedy: one sentence that says what to do.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem.rstrip('.')}. {remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors of other processes arrive whole, whatever the arguments of their class are."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[QAnchorError], args: tuple[Any, ...], values: dict[str, Any]) -> QAnchorError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(values)
    return error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "Did you mean 'takeout'? " where a known name is close to a misspelt one, otherwise "".

    Args:
        name: as the user wrote it.
        known: the names there are.
    """
    # Names are compared without case, and returned as they are.
    names = {each.lower(): each for each in known}
    matches = get_close_matches(name.lower(), names, n=1)
    return f"Did you mean {names[matches[0]]!r}? " if matches else ""


class InputError(QAnchorError):
    """The user's input is at fault."""

    exit_code = 2


class WorkspaceInvalid(InputError):
    """modalities.yaml, scenarios.yaml or a setting is invalid."""


class UnknownScenario(InputError):
    """A scenario that scenarios.yaml does not name."""

    def __init__(self, scenario: str, known: Sequence[str]) -> None:
        names = ", ".join(known) or "none yet"
        remedy = f"{did_you_mean(scenario, known)}Known: {names}. Add it to scenarios.yaml."
        super().__init__(f"scenario {scenario!r} does not exist", remedy)
        self.scenario = scenario


class EventsInvalid(InputError):
    """An event file that cannot be read, or holds no valid event."""


class LabelsInvalid(InputError):
    """A label file that breaks its contract."""


class PartIncomplete(LabelsInvalid):
    """Labels with a part that lacks rows or one of the labels."""


class FeaturesInvalid(InputError):
    """Rows that the feature store refuses: NaN, a wrong width, a missing key or an absurd time."""


class UserListInvalid(InputError):
    """A file that should list users: it cannot be read, lacks the column or names nobody."""


class SeedsInvalid(InputError):
    """Seeds that lookalike search cannot use."""


class FilterInvalid(InputError):
    """A filter on features that is no single yes-or-no expression, or that nobody passes."""


class AudienceInvalid(InputError):
    """A saved audience that is not there, or that cannot be made or combined this way."""


class StateError(QAnchorError):
    """The command came too early, or two things do not belong together."""

    exit_code = 3


class NotReady(StateError):
    """A step that has to run first has not run."""


class CheckpointInvalid(StateError):
    """A checkpoint is damaged, or written by another version."""


class GatesFailed(StateError):
    """New embeddings that a quality gate keeps out of service; those that serve stay."""


class OffsetsFenced(StateError):
    """Another consumer of the group has moved a partition on; what this one read is not to be written."""

    def __init__(self, topic: str, partition: int) -> None:
        super().__init__(
            f"partition {partition} of {topic!r} has been moved on by another consumer",
            "Nothing is lost: its owner writes these events.",
        )
        self.partition = partition


class TopicRecreated(StateError):
    """A Kafka topic was deleted and created again: the ledger's offsets are not its own."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"the topic {topic!r} was deleted and created again since the ledger was moved last",
            "Stop every consumer of the group, then `qanchor-cli consume --recreated` reads the new topic"
            " from its beginning.",
        )


class IndexInvalid(StateError):
    """A vector index is damaged, or its vectors are invalid."""


class FingerprintMismatch(StateError):
    """Vectors of one embedding space met a head, index or view of another."""


class TrainingDiverged(QAnchorError):
    """The loss is not finite.

    Args:
        step: the failed step, from 0.
        learning_rate: peak learning rate.
        kept: the step whose state is kept, if any is.
    """

    def __init__(self, step: int, learning_rate: float, kept: int | None = None) -> None:
        remedy = "Lower the learning rate, and look for absurd amounts in the events."
        if kept is not None:
            remedy += f" The state of step {kept} is kept: a lower --learning-rate continues from there."
        super().__init__(
            f"the training loss is not finite at step {step} (learning rate {learning_rate:g})", remedy
        )
        self.step = step


class BatchTooLarge(QAnchorError):
    """A training batch does not fit in memory.

    Args:
        points: points computed at a time.
        step: the failed step, from 0; the state before it is kept.
    """

    def __init__(self, points: int, step: int) -> None:
        fewer = f"--grad-cache {max(1, points // 4)}" if points > 1 else "--gradient-checkpointing"
        super().__init__(
            f"{points} points at a time do not fit in memory (step {step})",
            f"Run it again with {fewer}, which gives the same result and continues from step {step}, "
            "or with fewer --points.",
        )
        self.points = points


class StoreUnavailable(QAnchorError):
    """A database, broker or disk does not answer."""

    exit_code = 4


class BrokerUnavailable(StoreUnavailable):
    """No Kafka broker answers."""


class BrokerRefusal(BrokerUnavailable):
    """Kafka brokers, or its client library, refuse a request; trying again does not cure it.

    Args:
        problem: as of QAnchorError.
        remedy: as of QAnchorError.
        may_be_granted: an administrator may grant it while a service goes on trying.
    """

    def __init__(self, problem: str, remedy: str, may_be_granted: bool = False) -> None:
        super().__init__(problem, remedy)
        self.may_be_granted = may_be_granted


class DatabaseUnavailable(StoreUnavailable):
    """The registry's database does not answer, or has no schema."""


class DiskFull(StoreUnavailable):
    """No space left where state has to be written."""


class WriterUnavailable(StoreUnavailable):
    """A language model does not answer any attempt."""
