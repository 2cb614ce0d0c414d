"""QANCHOR_KAFKA__SECURITY: JSON's types, and the sources of OAuth tokens."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from consumers.security import ClientCredentials, TokenFile, client_security, principal
from qanchor.errors import BrokerRefusal, WorkspaceInvalid
from qanchor.settings import KafkaSettings, load_settings


def test_options_keep_the_types_that_json_has(monkeypatch: pytest.MonkeyPatch) -> None:
    text = '{"security_protocol": "SSL", "ssl_check_hostname": false, "request_timeout_ms": 40000}'
    monkeypatch.setenv("QANCHOR_KAFKA__SECURITY", text)
    options = client_security(load_settings().kafka)
    assert options["ssl_check_hostname"] is False
    assert options["request_timeout_ms"] == 40_000


def test_what_is_no_json_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QANCHOR_KAFKA__SECURITY", "{bad")
    with pytest.raises(WorkspaceInvalid, match="is not JSON"):
        load_settings()


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ({"sasl_plain_user": "x"}, "unknown option 'sasl_plain_user'"),
        ({"security_protocol": "TLS"}, "security_protocol 'TLS'"),
        ({"ssl_cafile": "/no/ca.pem"}, "ssl_cafile /no/ca.pem, which cannot be read"),
        ({"ssl_keyfile": "/"}, "ssl_keyfile /, which cannot be read"),
        ({"sasl_oauth_token_file": "/no/token"}, "sasl_oauth_token_file /no/token"),
        ({"sasl_oauth_token_url": "host/token"}, "without http"),
        ({"sasl_mechanism": "OAUTHBEARER"}, "without a source of tokens"),
    ],
)
def test_what_cannot_work_is_named(security: dict[str, Any], words: str) -> None:
    with pytest.raises(BrokerRefusal, match=words) as refused:
        client_security(KafkaSettings(security=security))
    assert "Correct QANCHOR_KAFKA__SECURITY" in str(refused.value)


def test_the_principal_is_named_as_far_as_the_settings_tell() -> None:
    assert principal(KafkaSettings()) == "User:ANONYMOUS"
    assert principal(KafkaSettings(security={"sasl_plain_username": "etl"})) == "User:etl"


def test_a_token_file_is_read_anew_each_time(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    options = client_security(
        KafkaSettings(security={"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_file": str(path)})
    )
    provider = options["sasl_oauth_token_provider"]
    assert isinstance(provider, TokenFile)
    assert "sasl_oauth_token_file" not in options
    assert provider.token() == "first"
    path.write_text("second")
    assert provider.token() == "second"


class _Endpoint(BaseHTTPRequestHandler):
    requests: ClassVar[list[tuple[str, str]]] = []
    answer: ClassVar[dict[str, Any]] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.requests.append((self.headers["Authorization"], body))
        content = json.dumps(self.answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        """Nothing is printed."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Endpoint.requests.clear()
    yield f"http://127.0.0.1:{server.server_address[1]}/token"
    server.shutdown()
    server.server_close()


def test_client_credentials_fetch_a_token_and_keep_it_until_it_expires(endpoint: str) -> None:
    _Endpoint.answer = {"access_token": "abc", "expires_in": 3600}
    names = {"token_url": endpoint, "client_id": "id", "client_secret": "secret", "scope": "kafka"}
    provider = ClientCredentials({f"sasl_oauth_{name}": value for name, value in names.items()})
    assert [provider.token() for _ in range(3)] == ["abc"] * 3
    assert _Endpoint.requests == [("Basic aWQ6c2VjcmV0", "grant_type=client_credentials&scope=kafka")]


def test_an_endpoint_without_a_token_is_named(endpoint: str) -> None:
    _Endpoint.answer = {"error": "invalid_client"}
    with pytest.raises(OSError, match="gives no token"):
        ClientCredentials({"sasl_oauth_token_url": endpoint}).token()
