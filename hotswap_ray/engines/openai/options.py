"""What an operator says about a server: where it is, how it is asked, how long it may take."""

from __future__ import annotations

import re
from typing import Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from hotswap_ray.engines.openai.params import Params

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_HEADER_VALUE = re.compile(r"[\t -~\x80-\xff]{0,16384}")
SHORTEST_SECRET = 6
"""Characters of a header's value below which it is taken for a word, such as a region."""
_OURS = {"connection", "content-length", "host", "transfer-encoding"}


class OpenAIOptions(BaseModel):
    """Options of the engine for OpenAI-compatible servers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(
        pattern=r"^https?://", max_length=2048, description="Up to and including /v1."
    )
    api_key: SecretStr | None = Field(None, description="Sent as a bearer token.")
    headers: dict[str, SecretStr] = Field(
        default_factory=dict, description="Further headers of each request."
    )
    params: Params = Field(default_factory=Params, description="Changes to each request's body.")
    check: Literal["models", "one_token", "none"] = Field(
        "models",
        description="Of a load: list the models, and if this one is not there ask it for one "
        "token; ask at once; or believe.",
    )
    connect_timeout_s: float = Field(5, gt=0, le=3600, description="Time to connect.")
    first_byte_timeout_s: float = Field(
        60, gt=0, le=86_400, description="Of a stream: to the first byte, and between two chunks."
    )
    total_timeout_s: float = Field(600, gt=0, le=86_400, description="Time to the last byte.")
    max_retries: int = Field(2, ge=0, le=20, description="Further tries to connect.")
    health_path: str | None = Field(
        None, max_length=1024, description="Path on the server for health; /v1/models if unset."
    )
    proxy: SecretStr | None = Field(None, description="HTTP proxy to the server, with its login.")
    trust_env: bool = Field(
        False, description="Take the proxy of the environment (HTTPS_PROXY, NO_PROXY)."
    )
    vllm_sleep: bool = Field(
        False, description="The server is a vLLM with --enable-sleep-mode in development mode."
    )

    @field_validator("base_url")
    @classmethod
    def _has_a_host(cls, value: str) -> str:
        if not _parsed(value).host:
            raise ValueError("it names no host")
        return value

    @field_validator("proxy")
    @classmethod
    def _is_an_http_proxy(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None  # an unset variable of the environment
        url = _parsed(value.get_secret_value())
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("give http://HOST:PORT or https://HOST:PORT")
        return value

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        lower = [name.lower() for name in value]
        for name in lower:
            if not _HEADER_NAME.fullmatch(name) or name in _OURS:
                raise ValueError(f"{name[:60]!r} is no header that can be set")
            if lower.count(name) > 1:
                raise ValueError(f"{name!r} is given twice")
        for name, secret in value.items():
            if not _HEADER_VALUE.fullmatch(secret.get_secret_value()):
                raise ValueError(f"the value of {name!r} has characters that no header may have")
        return value

    @model_validator(mode="after")
    def _says_once_who_asks(self) -> OpenAIOptions:
        given = {
            "api_key": bool(self.api_key and self.api_key.get_secret_value()),
            "headers.authorization": "authorization" in map(str.lower, self.headers),
            "the user in base_url": bool(self.url.userinfo),
        }
        ways = [way for way, is_given in given.items() if is_given]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are the same header; give one")
        return self

    @property
    def url(self) -> httpx.URL:
        """``base_url``, taken apart."""
        return httpx.URL(self.base_url)

    @property
    def address(self) -> str:
        """``base_url`` without a user, for messages to operators.

        Example:
            >>> OpenAIOptions(base_url="https://me:secret@host/v1").address
            'https://host/v1'
        """
        return str(self.url.copy_with(username=None, password=None, query=None))

    @property
    def sent_headers(self) -> dict[str, str]:
        """The headers of each request."""
        headers = {name: secret.get_secret_value() for name, secret in self.headers.items()}
        key = self.api_key.get_secret_value() if self.api_key else ""
        return {**headers, "authorization": f"Bearer {key}"} if key else headers

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no client may read in an error: keys, passwords, and where the server is."""
        url = self.url
        hidden = [self.api_key, self.proxy, *self.headers.values()]
        texts = [secret.get_secret_value() for secret in hidden if secret]
        texts = [text for text in texts if len(text) >= SHORTEST_SECRET]
        texts += [self.base_url, self.address, url.password, url.netloc.decode()]
        texts += [url.host] if "." in url.host else []  # not a word such as "vllm"
        return tuple(sorted(filter(None, {*texts}), key=len, reverse=True))


def _parsed(text: str) -> httpx.URL:
    try:
        return httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"this is no URL: {error}") from None
