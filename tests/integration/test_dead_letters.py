"""What is refused can be listed, mended and sent back: exactly that, once, and not for ever."""

import json
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from consumers.letter_replay import Letter, replay_letters, stream_letters, summarize_letters
from qanchor.settings import KafkaSettings
from tests.integration.brokers import environment, run_command
from tests.integration.clusters import Cluster
from tests.integration.places import Place, make_event, make_events

pytestmark = pytest.mark.integration


def _send(address: str, topic: str, *messages: tuple[bytes, bytes, list[tuple[str, bytes]]]) -> None:
    producer = KafkaProducer(bootstrap_servers=address)
    for key, value, headers in messages:
        producer.send(topic, value, key, headers).get(10)
    producer.close()


def _records(address: str, topic: str, partitions: int = 4) -> list[Any]:
    consumer = KafkaConsumer(
        bootstrap_servers=address, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
    found: list[Any] = []
    while polled := consumer.poll(1_000):
        found += [record for records in polled.values() for record in records]
    consumer.close()
    return found


def _every(_: Letter) -> bool:
    return True


def _refuse(place: Place) -> list[tuple[bytes, bytes, list[tuple[str, bytes]]]]:
    """One good event and three bad ones of two reasons, consumed."""
    bad = [
        (b"u1", json.dumps(make_event(901, modality="unheard")).encode(), [("trace", b"t-1")]),
        (b"u2", json.dumps(make_event(902, modality="unheard")).encode(), []),
        (b"u3", b"{", [("trace", b"t-3")]),
    ]
    place.produce(make_events(0, 1))
    _send(place.address, place.settings.kafka.topic, *bad)
    assert place.consume().rejected == {"unknown_modality": 2, "not_json": 1}
    return bad


def test_letters_keep_what_came_and_are_counted_once(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home")
    bad = _refuse(place)
    # A consumer killed between its letters and its commit writes the same letters again.
    producer = KafkaProducer(bootstrap_servers=cluster.address)
    for record in _records(cluster.address, cluster.dead_letter_topic, 1):
        producer.send(cluster.dead_letter_topic, record.value, record.key, record.headers).get(10)
    producer.close()
    entries = [entry for entry in stream_letters(place.settings.kafka) if isinstance(entry, Letter)]
    assert len(entries) == 6
    letters = list({letter.origin: letter for letter in entries}.values())
    assert summarize_letters(place.settings.kafka).letters == 3
    assert {(letter.key, letter.value) for letter in letters} == {(key, value) for key, value, _ in bad}
    assert len(letters) == 3
    assert {letter.key: list(letter.headers) for letter in letters} == {key: h for key, _, h in bad}


def test_replay_sends_exactly_the_chosen_bytes_back_once(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home")
    bad = _refuse(place)
    before = len(_records(cluster.address, cluster.topic))

    def unheard(letter: Letter) -> bool:
        return letter.reason == "unknown_modality"

    first = replay_letters(place.settings.kafka, unheard)
    again = replay_letters(place.settings.kafka, unheard)
    assert ((first.sent, first.already), (again.sent, again.already)) == ((2, 0), (0, 2))
    back = [r for r in _records(cluster.address, cluster.topic) if "dlq.replay_of" in dict(r.headers)]
    assert {(record.key, record.value) for record in back} == {(key, value) for key, value, _ in bad[:2]}
    assert len(_records(cluster.address, cluster.topic)) == before + 2
    traced = next(record for record in back if record.key == b"u1")
    assert dict(traced.headers)["trace"] == b"t-1"
    assert dict(traced.headers)["dlq.replay_of"].startswith(cluster.topic.encode() + b"/")
    assert replay_letters(place.settings.kafka, unheard, again=True).sent == 2


def test_a_message_refused_again_is_not_sent_for_ever(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home")
    _refuse(place)
    assert replay_letters(place.settings.kafka, _every).sent == 3
    assert place.consume().rejected.total() == 3  # nothing was mended
    reasons = summarize_letters(place.settings.kafka).reasons
    assert sum(again for _, _, again in reasons.values()) == 3
    assert replay_letters(place.settings.kafka, _every).sent == 0
    assert replay_letters(place.settings.kafka, _every, again=True).sent == 3


def test_letters_go_to_another_topic_where_they_are_told_to(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home")
    _refuse(place)
    before = len(_records(cluster.address, cluster.topic))
    assert replay_letters(place.settings.kafka, _every, to=f"looked-at-{cluster.suffix}").sent == 3
    assert len(_records(cluster.address, f"looked-at-{cluster.suffix}")) == 3
    assert len(_records(cluster.address, cluster.topic)) == before


def test_a_replay_that_is_killed_has_sent_nothing_or_all(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = cluster.place(tmp_path / "home")
    _refuse(place)
    before = len(_records(cluster.address, cluster.topic))
    with monkeypatch.context() as killed:
        killed.setattr(KafkaProducer, "commit_transaction", _killed)
        with pytest.raises(KeyboardInterrupt):
            replay_letters(place.settings.kafka, _every)
    assert replay_letters(place.settings.kafka, _every).sent == 3
    assert len(_records(cluster.address, cluster.topic)) == before + 3


def _killed(_: Any) -> None:
    raise KeyboardInterrupt


def test_the_commands_list_and_send_back(tmp_path: Path, cluster: Cluster) -> None:
    place = cluster.place(tmp_path / "home")
    _refuse(place)
    listed = run_command(["deadletters", "list", "--json", "--limit", "1"], place.env)
    assert listed.returncode == 0, listed.stderr
    content = json.loads(listed.stdout)
    assert content["letters"] == 3
    assert content["reasons"][0] == {
        "reason": "unknown_modality", "letters": 2, "sent_back": 0, "refused_again": 0,
    }  # fmt: skip
    assert len(content["newest"]) == 1
    assert "unheard" not in json.dumps([row for row in content["newest"] if row["reason"] == "not_json"])
    sent = run_command(["deadletters", "replay", "--reason", "not_json"], place.env)
    assert sent.stdout.strip() == "sent back: 1", sent.stderr
    text = run_command(["deadletters", "list", "--reason", "not_json"], place.env).stdout
    assert "yes" in text
    none = run_command(["deadletters", "list", "--reason", "too_old"], place.env)
    assert none.stdout.strip() == f"no dead letters of reason too_old in topic {cluster.dead_letter_topic}"


def test_a_topic_that_does_not_exist_holds_nothing(cluster: Cluster) -> None:
    settings = KafkaSettings(brokers=cluster.address, dead_letter_topic="never-made")
    assert summarize_letters(settings).letters == 0


def test_without_a_broker_there_is_one_line(tmp_path: Path) -> None:
    ended = run_command(["deadletters", "list"], environment(tmp_path, "127.0.0.1:1"))
    assert (ended.returncode, len(ended.stderr.strip().splitlines())) == (4, 1)
