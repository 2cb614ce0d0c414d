"""QANCHOR_KAFKA__SECURITY: options of kafka-python for login and TLS, checked before a broker is contacted.

OAUTHBEARER needs an object that fetches tokens; here the settings describe one: a file that something else
keeps fresh, or an endpoint of the OAuth 2.0 client-credentials grant (RFC 6749, 4.4).
"""

import base64
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from kafka import KafkaConsumer
from kafka.net.sasl.oauth import AbstractTokenProvider

from qanchor.errors import BrokerRefusal
from qanchor.settings import KafkaSettings

_NAME: Final = "QANCHOR_KAFKA__SECURITY"
_FILES: Final = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile")
_TOKEN_FILE, _TOKEN_URL = "sasl_oauth_token_file", "sasl_oauth_token_url"
_OAUTH: Final = (
    _TOKEN_FILE, _TOKEN_URL, "sasl_oauth_client_id", "sasl_oauth_client_secret", "sasl_oauth_scope",
)  # fmt: skip
_PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_TOKEN_SECONDS: Final = 10.0
_RENEW_SECONDS: Final = 30.0  # before a token expires


def client_security(settings: KafkaSettings) -> dict[str, Any]:
    """The options as kafka-python takes them.

    Raises:
        BrokerRefusal: an option is unknown, a file cannot be read, or the options do not go together.
    """
    options = dict(settings.security)
    unknown = sorted(options.keys() - KafkaConsumer.DEFAULT_CONFIG.keys() - set(_OAUTH))
    if unknown:
        raise _refusal(f"has the unknown option {unknown[0]!r}", "Name options as kafka-python does.")
    protocol = options.get("security_protocol", "PLAINTEXT")
    if protocol not in _PROTOCOLS:
        raise _refusal(f"has security_protocol {protocol!r}", f"Known: {', '.join(_PROTOCOLS)}.")
    for name in _FILES:
        _check_file(name, options.get(name))
    provider = _token_provider(options)
    plain = {name: value for name, value in options.items() if name not in _OAUTH}
    return plain | ({"sasl_oauth_token_provider": provider} if provider else {})


def _refusal(problem: str, remedy: str) -> BrokerRefusal:
    return BrokerRefusal(f"{_NAME} {problem}", f"{remedy} Correct {_NAME}.")


def _check_file(name: str, path: object) -> None:
    if path is None:
        return
    try:
        Path(str(path)).open("rb").close()
    except OSError as error:
        raise _refusal(f"names {name} {path}, which cannot be read: {error.strerror}", "") from error


def principal(settings: KafkaSettings) -> str:
    """The name that the brokers know this process by, as far as the settings tell."""
    options = settings.security
    user = options.get("sasl_plain_username") or options.get("sasl_oauth_client_id")
    if user:
        return f"User:{user}"
    return "the owner of the TLS certificate" if options.get("ssl_certfile") else "User:ANONYMOUS"


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python has no types
    """Tokens from a file that another program keeps fresh.

    Args:
        path: file with nothing but the token.
    """

    def __init__(self, path: Path, **config: Any) -> None:
        super().__init__(**config)
        self._path = path

    def token(self) -> str:
        """The token of this moment."""
        return self._path.read_text(encoding="ascii").strip()


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]  # as above
    """Tokens of the OAuth 2.0 client-credentials grant, each used until shortly before it expires.

    Args:
        options: URL, client id, client secret and scope under their names in the settings.
    """

    def __init__(self, options: Mapping[str, Any], **config: Any) -> None:
        super().__init__(**config)
        self._options = options
        self._token, self._expires = "", 0.0

    def token(self) -> str:
        """The token of this moment.

        Raises:
            OSError: the endpoint does not answer, or not with a token.
        """
        if time.monotonic() >= self._expires - _RENEW_SECONDS:
            answer = self._fetch()
            self._token = str(answer["access_token"])
            self._expires = time.monotonic() + float(answer.get("expires_in", 60))
        return self._token

    def _fetch(self) -> dict[str, Any]:
        options = self._options
        login = f"{options.get('sasl_oauth_client_id', '')}:{options.get('sasl_oauth_client_secret', '')}"
        form = {"grant_type": "client_credentials"}
        if options.get("sasl_oauth_scope"):
            form["scope"] = str(options["sasl_oauth_scope"])
        headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        request = Request(str(options[_TOKEN_URL]), urlencode(form).encode(), headers)  # checked
        try:
            with urlopen(request, timeout=_TOKEN_SECONDS) as response:  # as above
                answer: dict[str, Any] = json.load(response)
            answer["access_token"]
        except (URLError, ValueError, KeyError, TypeError) as error:
            raise OSError(f"the token endpoint {options[_TOKEN_URL]} gives no token: {error}") from error
        return answer


def _token_provider(options: Mapping[str, Any]) -> Any:
    if _TOKEN_FILE in options:
        _check_file(_TOKEN_FILE, options[_TOKEN_FILE])
        return TokenFile(Path(str(options[_TOKEN_FILE])))
    if _TOKEN_URL in options:
        if not str(options[_TOKEN_URL]).startswith(("http://", "https://")):
            raise _refusal(f"has {_TOKEN_URL} without http(s)://", "")
        return ClientCredentials(options)
    if options.get("sasl_mechanism") == "OAUTHBEARER":
        raise _refusal("has OAUTHBEARER without a source of tokens", f"Set {_TOKEN_FILE} or {_TOKEN_URL}.")
    return None
