import logging
from typing import Any

import kafka
import pytest
from kafka.errors import KafkaConnectionError

from consumers.kafka_client import connection_options, open_client, prepare_library
from qanchor.errors import BrokerUnavailable, NotReady
from qanchor.settings import KafkaSettings


def test_a_kafka_python_that_loses_partitions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("2.0.2", "3.0.8"):
        monkeypatch.setattr(kafka, "__version__", version)
        with pytest.raises(NotReady, match=version):
            prepare_library()
    monkeypatch.setattr(kafka, "__version__", "3.0.12")
    prepare_library()


def test_a_missing_checksum_package_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with caplog.at_level(logging.WARNING):
        prepare_library()
    assert "crc32c_missing" in caplog.text


def test_a_cluster_that_does_not_answer_is_named() -> None:
    def fail(**_: Any) -> None:
        raise KafkaConnectionError("refused")

    with pytest.raises(BrokerUnavailable, match=r"10\.0\.0\.1:9092"):
        open_client(KafkaSettings(brokers="10.0.0.1:9092"), fail)


def test_security_settings_reach_the_client() -> None:
    settings = KafkaSettings(brokers="a:1,b:2", security={"security_protocol": "SASL_SSL"})
    options = connection_options(settings)
    assert options["bootstrap_servers"] == ["a:1", "b:2"]
    assert options["security_protocol"] == "SASL_SSL"
