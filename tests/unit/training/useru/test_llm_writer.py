"""The language-model writer against a model on loopback that errs in every way."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from qanchor.errors import InputError, WriterUnavailable
from qanchor.training.useru.chat import Endpoint, HttpChat
from qanchor.training.useru.llm_writer import (
    Budget,
    LlmOptions,
    LlmWriter,
    Prices,
    ReplyCache,
    parse_draft,
)
from qanchor.training.useru.store import Manifest, read_manifest
from tests.unit.training.useru.fake_model import (
    FakeModel,
    Request,
    honest,
    question_of,
    saying,
    serving,
    slow,
    status,
    text,
)
from tests.unit.training.useru.worlds import CONFIG, build, rows_of

FEW = replace(CONFIG, users=3, cutoffs=1, topics=2)
PAIRS = 3  # that such a build asks a writer for


@pytest.fixture
def model() -> Iterator[FakeModel]:
    """A model with honest answers by default."""
    with serving() as fake:
        yield fake


@dataclass
class Lab:
    """A cache, a folder for sets, and the waits between attempts."""

    root: Path
    model: FakeModel
    waits: list[float]

    def writer(self, budget: Budget | None = None, **endpoint: Any) -> LlmWriter:
        options = {"api_key": "sesame", "timeout_seconds": 5.0, "attempts": 4, **endpoint}
        chat = HttpChat(Endpoint(self.model.url, "tiny", **options), self.waits.append)
        return LlmWriter(chat, ReplyCache(self.root / "replies"), budget or Budget(), LlmOptions(100))

    def build(
        self, name: str = "set", config: Any = FEW, budget: Budget | None = None, **options: Any
    ) -> Manifest:
        budget = budget or Budget()
        writer = self.writer(budget, **options)
        return build(self.root / name, config=config, writer=writer, budget=budget)

    def rows(self, name: str = "set", dropped: bool = False) -> list[dict[str, Any]]:
        return rows_of(self.root / name, "uqa", dropped)


@pytest.fixture
def lab(tmp_path: Path, model: FakeModel) -> Lab:
    """Everything that a build with this model needs."""
    return Lab(tmp_path, model, [])


def test_an_honest_models_answers_are_kept_with_their_provenance(lab: Lab) -> None:
    manifest = lab.build()
    rows = lab.rows()
    assert manifest.complete
    assert len(rows) == manifest.spending["calls"] == len(lab.model.requests) == PAIRS
    assert {row["verdict"] for row in rows} == {"supported"}
    assert {row["writer"] for row in rows} == {"llm"}
    assert {row["model"] for row in rows} == {f"tiny@{lab.model.url[7:-3]}"}
    assert all(len(row["prompt_hash"]) == 16 and row["facts_used"] for row in rows)
    assert all(row["answer"].startswith("In short: ") for row in rows)


def test_a_model_is_told_facts_and_never_who_the_user_is(lab: Lab) -> None:
    lab.build()
    for request, headers in zip(lab.model.requests, lab.model.headers, strict=True):
        assert request["path"] == "/v1/chat/completions"
        assert request["response_format"]["json_schema"]["schema"]["$ref"] == "#/$defs/Draft"
        assert headers["Authorization"] == "Bearer sesame"
        assert not any(row["user_id"] in json.dumps(request) for row in lab.rows())


def test_a_second_build_asks_nothing_and_gives_the_same_pairs(lab: Lab) -> None:
    first = lab.build("one")
    second = lab.build("two")
    assert len(lab.model.requests) == PAIRS
    assert second.content_hash == first.content_hash
    assert (second.spending["calls"], second.spending["from_cache"]) == (0, PAIRS)


def test_the_prompt_is_the_one_that_stored_replies_were_requested_with(lab: Lab) -> None:
    assert lab.writer().signature.prompt_hash == "30c331efa3c57b8f"


def test_a_damaged_reply_is_asked_for_again(lab: Lab) -> None:
    lab.build("one")
    next(iter((lab.root / "replies").glob("*/*.json"))).write_bytes(b"{half")
    lab.build("two")
    assert len(lab.model.requests) == PAIRS + 1


def test_bad_json_is_asked_for_again_and_counted(lab: Lab) -> None:
    lab.model.script = [text("Sure! Here you are: {oops"), text('{"question": 3}')]
    manifest = lab.build()
    assert manifest.spending["malformed"] == 2
    assert manifest.spending["calls"] == PAIRS + 2
    assert len(lab.rows()) == PAIRS
    assert "Reply with that object alone" in lab.model.requests[1]["messages"][-1]["content"]


def test_an_answer_that_never_takes_the_form_is_dropped(lab: Lab) -> None:
    lab.model.then = text("I would rather not.")
    manifest = lab.build()
    assert lab.rows() == []
    assert manifest.counts["verdict"]["dropped"] == PAIRS
    assert {row["faults"][0] for row in lab.rows(dropped=True)} == {"no answer in the form asked for"}


def test_fences_and_words_around_the_object_do_no_harm() -> None:
    draft = {"question": "What of it, then?", "answer": [{"text": "It is so.", "facts": ["events"]}]}
    assert parse_draft(f"Here:\n```json\n{json.dumps(draft)}\n```").answer[0].text == "It is so."


def test_too_many_requests_are_waited_for_as_long_as_the_server_says(lab: Lab) -> None:
    lab.model.script = [status(429, Retry_After="7"), status(429, Retry_After="86400")]
    assert len(lab.build().counts["verdict"]) == 1
    assert lab.waits == [7.0, 60.0]
    assert len(lab.rows()) == PAIRS


def test_failing_servers_are_tried_again_later_and_later(lab: Lab) -> None:
    lab.model.script = [status(500), status(503), status(502)]
    lab.build()
    assert len(lab.rows()) == PAIRS
    assert len(lab.waits) == 3
    assert 0.5 <= lab.waits[0] <= 1 <= lab.waits[1] <= 2 <= lab.waits[2] <= 4


def test_a_timeout_is_tried_again(lab: Lab) -> None:
    lab.model.script = [slow(0.8)]
    lab.build(timeout_seconds=0.25)
    assert len(lab.rows()) == PAIRS
    assert len(lab.waits) == 1


def test_a_body_that_is_no_protocol_is_tried_again(lab: Lab) -> None:
    lab.model.script = [lambda _: (200, {}, {"error": "choices are gone"})]
    lab.build()
    assert len(lab.waits) == 1


def test_a_model_that_stays_away_leaves_what_is_done_and_can_be_resumed(lab: Lab) -> None:
    lab.model.script = [honest] * 3
    lab.model.then = status(500)
    with pytest.raises(WriterUnavailable, match="failed 4 times, lastly with: 500") as caught:
        lab.build("one", replace(FEW, users=20))
    assert "Run the same command again" in str(caught.value)
    manifest = read_manifest(lab.root / "one")
    assert not manifest.complete
    lab.model.then = honest
    assert lab.build("two", replace(FEW, users=20)).spending["from_cache"] == 3


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_refusal_ends_at_once_and_does_not_show_the_key(lab: Lab, code: int) -> None:
    lab.model.then = status(code)
    with pytest.raises(InputError, match=f"refuses: {code}") as caught:
        lab.build()
    assert "sesame" not in str(caught.value)
    assert lab.waits == []
    assert not (lab.root / "set").exists()
    assert [path.name for path in lab.root.iterdir()] == []


def test_a_redirect_is_not_followed(lab: Lab) -> None:
    lab.model.then = status(307, Location=f"{lab.model.url}/elsewhere")
    with pytest.raises(InputError, match="refuses: 307"):
        lab.build()
    assert len(lab.model.requests) == 1


def test_a_server_that_knows_no_schemas_is_asked_without(lab: Lab) -> None:
    lab.model.script = [status(400)]
    lab.build()
    assert "response_format" in lab.model.requests[0]
    assert not any("response_format" in request for request in lab.model.requests[1:])
    assert len(lab.rows()) == PAIRS


def test_several_requests_with_a_schema_may_be_refused_at_a_time(lab: Lab) -> None:
    lab.model.then = lambda request: status(400)(request) if "response_format" in request else honest(request)
    manifest = lab.build(config=replace(FEW, users=12, parallel=4))
    assert manifest.complete
    assert len(lab.rows()) == manifest.spending["calls"]


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(InputError, match=r'needs httpx.*pip install "qanchor\[llm\]"'):
        HttpChat(Endpoint("http://host/v1", "tiny"))


def test_an_invented_number_goes_back_to_the_model(lab: Lab) -> None:
    def corrected(request: Request) -> tuple[int, dict[str, str], Any]:
        last = request["messages"][-1]["content"]
        return honest(request) if "is wrong" in last else saying("987 events in all.", "events")(request)

    lab.model.then = corrected
    manifest = lab.build()
    assert manifest.counts["verdict"]["revised"] == PAIRS
    assert set(manifest.counts["verdict"]) == {"revised", "supported"}
    assert manifest.faults["wrong number"] == PAIRS
    for row in lab.rows():
        assert "987" not in row["answer"]
        assert row["draft"] == "987 events in all."
        assert row["faults"] == ["says 987 events, which no cited fact does"]


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("There were 987 events.", "wrong number"),
        ('Chiefly "moon landing by Saturn".', "foreign quotation"),
        ("The user went to Reykjavik.", "foreign name"),
        ("The user never did.", "wrong direction"),
    ],
)
def test_what_a_model_does_not_mend_is_replaced_by_the_fact(lab: Lab, sentence: str, fault: str) -> None:
    lab.model.then = saying(sentence, "events")
    manifest = lab.build()
    assert manifest.faults[fault] == PAIRS
    for row in lab.rows():
        assert row["verdict"] == "repaired"
        assert row["answer"] == next(f["says"] for f in row["facts"] if f["name"] == "events")
        assert row["draft"] == sentence


def test_an_answer_that_cites_nothing_is_dropped_and_kept_for_inspection(lab: Lab) -> None:
    lab.model.then = saying("A very loyal user.")
    manifest = lab.build()
    assert manifest.counts["verdict"]["dropped"] == PAIRS
    assert lab.rows() == []
    assert {row["draft"] for row in lab.rows(dropped=True)} == {"A very loyal user."}


def test_a_question_that_says_what_is_not_so_gives_way_to_the_suggested_one(lab: Lab) -> None:
    def odd(request: Request) -> tuple[int, dict[str, str], Any]:
        code, headers, draft = honest(request)
        return code, headers, {**draft, "question": "Why did this user do it 4321 times?"}

    lab.model.then = odd
    lab.build()
    suggested = {question_of(request) for request in lab.model.requests}
    assert {row["question"] for row in lab.rows()} <= suggested
    assert {row["verdict"] for row in lab.rows()} == {"repaired"}


def test_revisions_can_be_turned_off(lab: Lab) -> None:
    lab.model.then = saying("There were 987 events.", "events")
    assert lab.build(config=replace(FEW, revisions=0)).spending["calls"] == PAIRS


def test_a_spending_cap_stops_before_it_is_exceeded_and_keeps_what_is_done(lab: Lab) -> None:
    config = replace(FEW, users=20)
    budget = Budget(most_tokens=2_000)
    manifest = lab.build("one", config, budget)
    assert not manifest.complete
    assert "spending cap" in manifest.stopped
    assert 0 < budget.tokens <= 2_000
    assert len(lab.rows("one")) == manifest.spending["calls"] == len(lab.model.requests)
    assert rows_of(lab.root / "one", "future")
    calls = len(lab.model.requests)
    again = lab.build("two", config, Budget())
    assert again.complete
    assert again.spending["from_cache"] == calls
    assert len(lab.model.requests) == len(lab.rows("two"))


def test_a_cap_in_money_counts_what_is_read_and_written(lab: Lab) -> None:
    # A call is 100 tokens read and 20 written: 0.0001 + 0.00006.
    budget = Budget(Prices(1.0, 3.0), most_cost=0.002)
    manifest = lab.build(config=replace(FEW, users=20), budget=budget)
    assert not manifest.complete
    assert manifest.spending["cost"] == pytest.approx(0.00016 * manifest.spending["calls"])
    assert 0 < manifest.spending["cost"] <= 0.002


def test_a_model_that_does_not_count_is_counted_for(lab: Lab) -> None:
    lab.model.usage = False
    manifest = lab.build()
    assert manifest.spending["prompt_tokens"] > PAIRS * 200
    assert manifest.spending["reply_tokens"] > PAIRS * 10


def test_several_answers_at_a_time_give_the_same_set(lab: Lab) -> None:
    config = replace(FEW, users=12)
    one = lab.build("one", config)
    lab.root = lab.root / "other"
    lab.root.mkdir()
    four = lab.build("four", replace(config, parallel=4))
    assert four.content_hash == one.content_hash
    assert four.spending["calls"] == one.spending["calls"]


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="not the address"):
        HttpChat(Endpoint(url, "tiny"))


def test_a_key_does_not_show_in_what_is_printed() -> None:
    assert "sesame" not in repr(Endpoint("http://host/v1", "tiny", "sesame"))
