"""Which error of Kafka means what: the cause by name, what to do, and whether trying again can cure it."""

import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from kafka import errors

from consumers.security import principal
from qanchor.errors import BrokerRefusal, BrokerUnavailable
from qanchor.settings import KafkaSettings

_SECURITY: Final = "QANCHOR_KAFKA__SECURITY"


@dataclass(frozen=True)
class Use:
    """What a client does, for the error that says what it was not allowed to do.

    Args:
        operation: Kafka's name of the operation: READ, WRITE, DESCRIBE.
        topic: topic.
        transactional_id: of a transactional producer.
    """

    operation: str = "READ"
    topic: str = ""
    transactional_id: str = ""


# Trying again is what cures these: a node is away, moves its work, or is not ready yet.
_PASSING: Final = (
    errors.RetriableError,
    errors.KafkaConnectionError,
    errors.CommitFailedError,
    errors.IllegalGenerationError,
    errors.UnknownMemberIdError,
    errors.IllegalStateError,
    errors.BrokerNotAvailableError,
    errors.StaleControllerEpochError,
    errors.StaleBrokerEpochError,
    errors.UnknownProducerIdError,
    errors.OutOfOrderSequenceNumberError,
    errors.InvalidProducerEpochError,
    errors.UnknownBrokerIdError,
    errors.UnknownError,  # a fault of the node, or an error code that kafka-python does not know yet
    errors.KafkaProtocolError,
)
_MAY_BE_GRANTED: Final = (
    errors.AuthorizationError,
    errors.SaslAuthenticationFailedError,
    errors.UnknownTopicOrPartitionError,
)
_REMEDIES: Final[dict[type[Exception], tuple[str, str]]] = {
    errors.FencedInstanceIdError: (
        "another consumer of this name has joined the group",
        "Give each consumer of a group a different --name.",
    ),
    errors.GroupMaxSizeReachedError: (
        "the group has as many members as the brokers allow",
        "Run fewer consumers, or raise group.max.size.",
    ),
    errors.InconsistentGroupProtocolError: (
        "the group has members of another kind, or with another assignment strategy",
        "Stop them, or set QANCHOR_KAFKA__GROUP to another name.",
    ),
    errors.InvalidGroupIdError: ("the brokers refuse the group's name", "Correct QANCHOR_KAFKA__GROUP."),
    errors.InvalidTopicError: ("the brokers refuse the topic's name", "Correct QANCHOR_KAFKA__TOPIC."),
    errors.SecurityDisabledError: ("the brokers have no authorizer", "Run this against a cluster with one."),
    errors.UnsupportedVersionError: (
        "the brokers do not know a request of this client",
        "Use Apache Kafka 2.3 or newer; QANCHOR_KAFKA__API_VERSION names an older one.",
    ),
    errors.InvalidTimestampError: (
        "the topic refuses the time of a message",
        "Check message.timestamp.type and the limits beside it.",
    ),
}  # fmt: skip


def is_passing(error: BaseException) -> bool:
    """Whether trying again may cure the error by itself."""
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return False
    return isinstance(error, _PASSING) or not isinstance(error, errors.KafkaError)


def explain(error: BaseException, settings: KafkaSettings, use: Use) -> BrokerUnavailable:
    """The error of this project for an error of kafka-python.

    Args:
        error: from a client that had been connected.
        settings: brokers, login, topics and group.
        use: what was done.
    """
    # A producer that has failed before wraps why in an error without a class of its own.
    error = next((part for part in error.args if isinstance(part, errors.KafkaError)), error)
    if is_passing(error):
        return no_broker(settings)
    may_be_granted = isinstance(error, _MAY_BE_GRANTED)
    problem, remedy = _describe(error, settings, use)
    refusal = BrokerRefusal(problem, remedy, may_be_granted)
    refusal.__cause__ = error
    return refusal


def _describe(error: BaseException, settings: KafkaSettings, use: Use) -> tuple[str, str]:
    if isinstance(error, errors.AuthorizationError):
        return _not_allowed(error, settings, use)
    sized = _misfit(error, settings, use)
    if sized is not None:
        return sized
    login = _login_problem([error], settings)
    if login is not None:
        return login
    for kind, description in _REMEDIES.items():
        if isinstance(error, kind):
            return description
    return f"the brokers refuse it: {type(error).__name__}: {_text(error)}", "See the brokers' log."


def _misfit(error: BaseException, settings: KafkaSettings, use: Use) -> tuple[str, str] | None:
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        topic = _names(error) or use.topic
        return (
            f"the topic {topic!r} does not exist at {settings.brokers}",
            "Create it, or correct the setting.",
        )
    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
        return (
            f"a message is larger than the topic {use.topic!r} takes: {_text(error)}",
            "Raise the topic's max.message.bytes.",
        )
    if isinstance(error, errors.InvalidSessionTimeoutError):
        return (
            f"the brokers refuse a session of {settings.session_seconds:g} s",
            "Set QANCHOR_KAFKA__SESSION_SECONDS between group.min.session.timeout.ms (6 s by default)"
            " and group.max.session.timeout.ms.",
        )
    return None


def _not_allowed(error: BaseException, settings: KafkaSettings, use: Use) -> tuple[str, str]:
    who = principal(settings)
    if isinstance(error, errors.GroupAuthorizationFailedError):
        operation, resource, name = "READ", "group", settings.group
    elif isinstance(error, errors.TransactionalIdAuthorizationFailedError):
        operation, resource, name = "WRITE", "transactional-id", use.transactional_id
    elif isinstance(error, errors.ClusterAuthorizationFailedError):
        operation, resource, name = "IDEMPOTENT_WRITE", "cluster", "kafka-cluster"
    else:
        operation, resource, name = use.operation, "topic", _names(error) or use.topic
    resource_option = "--cluster" if resource == "cluster" else f"--{resource} {name}"
    return (
        f"{who} may not {operation} {resource} {name!r} at {settings.brokers}",
        f"Let an administrator run: kafka-acls --add --allow-principal {who} --operation {operation}"
        f" {resource_option}",
    )


def _names(error: BaseException) -> str:
    """Topics that kafka-python passes as the error's argument, in one form or another."""
    names = error.args[0] if error.args else ""
    if isinstance(names, str):
        return names if names and " " not in names else ""
    return ", ".join(sorted(map(str, names))) if isinstance(names, set | frozenset | list | tuple) else ""


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def explain_connection(
    error: BaseException, causes: Iterable[BaseException], settings: KafkaSettings
) -> BrokerUnavailable:
    """The error for a client that could not connect.

    Args:
        error: what the client raised, often no more than a time-out.
        causes: why its connections were lost.
        settings: brokers and login.
    """
    if isinstance(error, BrokerUnavailable):
        return error
    every = [*_chains(causes), error]
    problem = _login_problem(every, settings)
    if problem is not None:
        return BrokerRefusal(*problem, may_be_granted=True)
    if isinstance(error, errors.KafkaConfigurationError | ValueError | TypeError | KeyError | AssertionError):
        return BrokerRefusal(
            f"kafka-python refuses its options: {_text(error)}",
            f"Correct {_SECURITY} and the other settings.",
        )
    if any(is_hang_up(cause) for cause in every):
        protocol = settings.security.get("security_protocol", "PLAINTEXT")
        login = "it refuses the login, or " if protocol.startswith("SASL") else ""
        return BrokerRefusal(
            f"{settings.brokers} takes connections and hangs up: {login}its listener is not for {protocol}",
            f"Set security_protocol in {_SECURITY}, or name another port in QANCHOR_KAFKA__BROKERS.",
            may_be_granted=True,
        )
    return no_broker(settings)


def _chains(causes: Iterable[BaseException]) -> Sequence[BaseException]:
    every: list[BaseException] = []
    for cause in causes:
        one: BaseException | None = cause
        while one is not None and one not in every:
            every.append(one)
            one = one.__cause__ or one.__context__
    return every


def is_hang_up(error: BaseException) -> bool:
    """Whether a connection was there and the other side ended it."""
    text = _text(error).lower()
    if "refused" in text or "errno 111" in text:
        return False
    return isinstance(error, errors.KafkaProtocolError | EOFError | ConnectionResetError) or any(
        sign in text
        for sign in ("connection reset", "closed by", "eof", "wrong_version_number", "disconnect")
    )


def _login_problem(every: Sequence[BaseException], settings: KafkaSettings) -> tuple[str, str] | None:
    mechanism = settings.security.get("sasl_mechanism", "no mechanism")
    for error in every:
        if isinstance(error, errors.SaslAuthenticationFailedError):
            return (
                f"the brokers refuse the login of {principal(settings)} by {mechanism}: {_text(error)}",
                f"Correct user, password or mechanism in {_SECURITY}.",
            )
        if isinstance(error, errors.UnsupportedSaslMechanismError | errors.IllegalSaslStateError):
            return (
                f"the brokers do not take the login mechanism {mechanism}: {_text(error)}",
                f"Correct sasl_mechanism in {_SECURITY}.",
            )
        if tls := _tls_problem(error):
            return tls
        if "token endpoint" in _text(error):
            return _text(error), f"Correct {_SECURITY}, or start the endpoint."
    return None


def _tls_problem(error: BaseException) -> tuple[str, str] | None:
    text = _text(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the brokers' TLS certificate does not verify: {_last_part(text)}",
            f"Set ssl_cafile in {_SECURITY} to the file of the authority that signed it.",
        )
    signs = ("wrong_version_number", "record layer failure", "unexpected_eof")
    if any(sign in text.lower() for sign in signs):
        return (
            "the listener does not speak TLS",
            f"Set security_protocol in {_SECURITY} to PLAINTEXT or SASL_PLAINTEXT, or name another port.",
        )
    if isinstance(error, ssl.SSLError) or "[SSL" in text or "[X509" in text or "PEM" in text:
        return f"TLS fails: {_last_part(text)}", f"Correct the ssl_ files and options in {_SECURITY}."
    return None


def _last_part(text: str) -> str:
    return text.removeprefix("KafkaConnectionError: ").removeprefix("Handshake failed: ")


def no_broker(settings: KafkaSettings) -> BrokerUnavailable:
    """The error for brokers that do not answer."""
    return BrokerUnavailable(
        f"no Kafka broker answers at {settings.brokers}",
        "Start one (`qanchor-cli broker`), or set QANCHOR_KAFKA__BROKERS.",
    )


def refusal_of(error: BaseException, settings: KafkaSettings, use: Use) -> BrokerRefusal | None:
    """The refusal that an error stands for; None where trying again may cure it."""
    explained = explain(error, settings, use)
    return explained if isinstance(explained, BrokerRefusal) else None
