"""What Apache Kafka refuses is named: operation, resource and principal, within seconds."""

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from consumers.kafka_client import session_limits
from qanchor.settings import KafkaSettings
from tests.integration.apache_kafka import ApacheKafka, apache_kafka
from tests.integration.brokers import environment, run_command, start_command, wait_for
from tests.integration.clusters import Cluster, require_apache
from tests.integration.places import make_event

pytestmark = pytest.mark.integration

_JAAS = "org.apache.kafka.common.security.scram.ScramLoginModule required"
_SETTINGS = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:admin;User:ANONYMOUS",
    "sasl.enabled.mechanisms": "SCRAM-SHA-256",
    "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-256",
    "listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config": (
        f'{_JAAS} username="admin" password="a";'
    ),
}
_SECONDS = 25.0  # of one command on a busy machine, its start included


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    require_apache()
    folder = tmp_path_factory.mktemp("secured") / "data"
    users = [f"SCRAM-SHA-256=[name={name},password={name[0]}]" for name in ("admin", "user")]
    storage = [part for user in users for part in ("--add-scram", user)]
    with apache_kafka(folder, 1, _SETTINGS, "SASL_PLAINTEXT", *storage) as running:
        yield running


def _login(name: str, password: str = "", mechanism: str = "SCRAM-SHA-256") -> dict[str, Any]:
    return {
        "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": mechanism,
        "sasl_plain_username": name, "sasl_plain_password": password or name[0],
    }  # fmt: skip


class _Secured:
    """Names of one test on the secured cluster, and what the user may do with them."""

    def __init__(self, kafka: ApacheKafka, home: Path, suffix: str) -> None:
        self.cluster = Cluster(kafka.address, suffix, kafka=kafka)
        self._admin = KafkaAdminClient(bootstrap_servers=kafka.address, **_login("admin"))
        names = (self.cluster.topic, self.cluster.dead_letter_topic)
        self._admin.create_topics([NewTopic(name, 2, 1) for name in names])
        producer = KafkaProducer(bootstrap_servers=kafka.address, **_login("admin"))
        for event in (make_event(0), make_event(1, modality="unheard")):
            producer.send(self.cluster.topic, json.dumps(event).encode(), b"k").get(20)
        producer.close()
        place = self.cluster.place(home)
        self.env = {**place.env, "QANCHOR_KAFKA__SECURITY": json.dumps(_login("user"))}

    def allow(self, operation: str, kind: str, name: str) -> None:
        from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

        pattern = ResourcePattern(ResourceType[kind], name)
        acl = ACL("User:user", "*", ACLOperation[operation], ACLPermissionType.ALLOW, pattern)
        self._admin.create_acls([acl])
        time.sleep(0.3)

    def close(self) -> None:
        self._admin.close()


@pytest.fixture
def secured(kafka: ApacheKafka, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[_Secured]:
    one = _Secured(kafka, tmp_path / "home", f"s{abs(hash(request.node.name)) % 10**8}")
    yield one
    one.close()


def _refused(arguments: list[str], env: dict[str, str]) -> str:
    began = time.monotonic()
    ended = run_command(arguments, env)
    assert time.monotonic() - began < _SECONDS
    last = ended.stderr.strip().splitlines()[-1]
    assert (ended.returncode, last.startswith("error: ")) == (4, True), ended.stderr
    assert "no Kafka broker answers" not in ended.stderr
    return last


def test_each_permission_that_is_missing_is_named_until_all_are_there(secured: _Secured) -> None:
    cluster, env = secured.cluster, secured.env
    consume = ["consume", "--stop-at-end", "--json"]
    assert f"User:user may not READ group '{cluster.group}'" in _refused(consume, env)
    secured.allow("READ", "GROUP", cluster.group)
    assert f"User:user may not READ topic '{cluster.topic}'" in _refused(consume, env)
    secured.allow("READ", "TOPIC", cluster.topic)
    assert f"User:user may not WRITE topic '{cluster.dead_letter_topic}'" in _refused(consume, env)
    secured.allow("WRITE", "TOPIC", cluster.dead_letter_topic)
    consumed = run_command(consume, env)
    assert json.loads(consumed.stdout)["events"] == 1, consumed.stderr

    listing, replay = ["deadletters", "list"], ["deadletters", "replay", "--json"]
    assert f"User:user may not READ topic '{cluster.dead_letter_topic}'" in _refused(listing, env)
    secured.allow("READ", "TOPIC", cluster.dead_letter_topic)
    assert run_command(listing, env).returncode == 0
    assert "may not WRITE transactional-id" in _refused(replay, env)
    secured.allow("WRITE", "TRANSACTIONAL_ID", f"{cluster.group}.deadletters")
    assert f"User:user may not WRITE topic '{cluster.topic}'" in _refused(replay, env)
    secured.allow("WRITE", "TOPIC", cluster.topic)
    replayed = run_command(replay, env)
    assert json.loads(replayed.stdout)["sent"] == 1, replayed.stderr
    status = run_command(["consume", "status"], env)
    assert status.returncode == 0, status.stderr


@pytest.mark.parametrize(
    ("security", "words"),
    [
        (_login("user", "wrong"), "refuse the login of User:user by SCRAM-SHA-256"),
        (_login("user", mechanism="PLAIN"), "login mechanism PLAIN"),
        ({}, "hangs up: its listener is not for PLAINTEXT"),
        ({"security_protocol": "SSL"}, "does not speak TLS"),
        ({**_login("user"), "sasl_plain_usrname": "x"}, "unknown option 'sasl_plain_usrname'"),
        ({"security_protocol": "SASL_SLL"}, "security_protocol 'SASL_SLL'"),
        (
            {"security_protocol": "SSL", "ssl_cafile": "/no/such/ca.pem"},
            "/no/such/ca.pem, which cannot be read",
        ),
        (
            {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"},
            "without a source of tokens",
        ),
    ],
    ids=["password", "mechanism", "plain", "tls", "key", "protocol", "file", "oauth"],
)
def test_a_wrong_login_is_named_by_every_command(
    kafka: ApacheKafka, tmp_path: Path, security: dict[str, Any], words: str
) -> None:
    env = environment(tmp_path / "home", kafka.address, security=json.dumps(security))
    assert words in _refused(["consume", "--stop-at-end"], env)
    assert words in _refused(["deadletters", "list"], env)
    told = run_command(["doctor", "--json"], env)
    (finding,) = [one for one in json.loads(told.stdout)["findings"] if one["check"] == "kafka broker"]
    assert finding["state"] == "missing"
    assert words in finding["value"]


def test_a_session_that_the_brokers_refuse_is_named_with_both_numbers(secured: _Secured) -> None:
    secured.allow("READ", "GROUP", secured.cluster.group)
    secured.allow("READ", "TOPIC", secured.cluster.topic)
    env = {**secured.env, "QANCHOR_KAFKA__SESSION_SECONDS": "0.5"}
    for arguments in (["consume", "--stop-at-end"], ["consume"]):
        text = _refused(arguments, env)
        assert "a session of 0.5 s" in text
        assert "theirs is 1 to 1800 s" in text or "(6 s by default)" in text


def test_a_session_is_named_with_the_brokers_own_limits(kafka: ApacheKafka) -> None:
    settings = KafkaSettings(brokers=kafka.address, security=_login("admin"))
    assert session_limits(settings) == (1.0, 1800.0)


def test_a_service_says_so_and_goes_on_when_it_is_allowed(secured: _Secured, tmp_path: Path) -> None:
    secured.allow("READ", "GROUP", secured.cluster.group)
    secured.allow("WRITE", "TOPIC", secured.cluster.dead_letter_topic)
    port = 21_873
    with start_command(["consume", "--metrics-port", str(port)], secured.env) as process:
        words = f"User:user may not READ topic '{secured.cluster.topic}'"
        wait_for(lambda: words in _page(port, "readyz"), 40)
        assert "qanchor_consumer_refused_by_brokers 1.0" in _page(port, "metrics")
        secured.allow("READ", "TOPIC", secured.cluster.topic)
        wait_for(lambda: _page(port, "readyz") == "ok\n", 40)
        assert "qanchor_consumer_refused_by_brokers 0.0" in _page(port, "metrics")
        wait_for(lambda: "qanchor_consumer_events_total 1.0" in _page(port, "metrics"), 40)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def _page(port: int, name: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
    except OSError:
        return ""
