"""Settings of `rl-rerank serve`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from rl_rerank.config.building import at_least
from rl_rerank.config.engine import EngineConfig


@dataclass(kw_only=True)
class ServeLimits:
    """What one request, and all that wait, may ask of the server."""

    body_bytes: int = 16 * 2**20
    """Size of a request's body."""
    documents: int = 1000
    """Documents of one request."""
    seconds: float = 120.0
    """Time for a body to arrive, and then for its answer, waiting included."""
    waiting: int = 64
    """Requests that wait for the engine; further ones are answered 429."""
    batch_documents: int = 256
    """Documents of the waiting requests that the engine scores together; a larger request is a batch by itself."""

    def __post_init__(self) -> None:
        at_least("limits", self, body_bytes=1, documents=1, waiting=1, batch_documents=1)
        if not self.seconds > 0:
            raise ValueError(f"limits.seconds must be above 0; got {self.seconds}")


@dataclass(kw_only=True)
class ServeModel:
    """`rl-rerank serve model=DIR`: answer rerank requests with an exported model."""

    model: str
    """A folder that `rl-rerank export` wrote, or the hub id of one."""
    name: str | None = None
    """The model's id in requests and answers; null: the last part of `model`."""
    revision: str | None = None
    """A branch, tag or commit of the hub's repository."""
    dtype: str | None = None
    """float32, bfloat16 or float16; null: that of the export."""
    trust_remote_code: bool = False
    engine: EngineConfig = field(default_factory=EngineConfig)
    """hf or vllm, with its settings."""
    host: str = "127.0.0.1"
    """The address to listen on. One that other machines reach needs a key."""
    port: int = 8000
    """0: any free port."""
    api_key_variable: str = "RL_RERANK_API_KEY"
    """Environment variable with the key that requests must bear; if unset, none is needed."""
    open_to_network: bool = False
    """Without a key, listen on an address that other machines reach, and answer requests to any host name."""
    limits: ServeLimits = field(default_factory=ServeLimits)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port must be from 0 to 65535; got {self.port}")
        # What is refused here may be the key itself, so it is not shown.
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_variable):
            raise ValueError("api_key_variable is the name of an environment variable, never the key itself")

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check_key(self, key: str) -> None:
        """Refuse an address that other machines reach if there is no key, unless that is configured.

        Args:
            key: empty if there is none.

        Raises:
            ValueError: naming the settings that help.
        """
        if not key and not self.is_local and not self.open_to_network:
            raise ValueError(
                f"host={self.host} is reached by other machines, and {self.api_key_variable} holds no key, so anyone "
                "could use the model; set that variable, leave host at 127.0.0.1, or say open_to_network=true"
            )
