"""The section `serving`: how `wfr serve` answers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from wfr.section import Section


class CanaryConfig(Section):
    """How a newer version of a followed run takes over."""

    percent: float = Field(10.0, gt=0, le=100)
    """Share of workflows that a newer version gets until it has proven itself."""
    workflows: int = Field(50, ge=0)
    """Workflows that prove it; 0: it takes over at once."""
    tolerance: float = Field(0.05, ge=0, le=1)
    """A version whose share of failed or malformed workflows is higher than its predecessor's by
    more than this is taken back."""


class ServingConfig(Section):
    """A trained director as a service (`wfr serve`)."""

    name: str = Field("director", pattern=r"^[A-Za-z0-9._/-]+$")
    """Name of the model; `NAME:workflow` is the one that plays whole workflows."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: every address of the machine."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0: any free one."""
    ingress: Literal["auto", "direct", "proxy"] = "auto"
    """`direct`: replicas listen themselves, and the kernel spreads connections over those of one
    machine; `proxy`: Ray Serve's proxy does, which counts requests for autoscaling and costs a few
    milliseconds of processor time each; `auto`: direct unless replicas come and go. `serve deploy`
    and RayService always use the proxy."""
    tls_cert: str | None = None
    """File of the certificate; with `tls_key` the service speaks HTTPS."""
    tls_key: str | None = None
    """File of the certificate's key."""
    replicas: int = Field(1, ge=1)
    """Engines that are always there."""
    max_replicas: int | None = Field(None, ge=1)
    """With more than `replicas`, engines come and go with the count of requests."""
    concurrency: int = Field(32, ge=1)
    """Workflows that a replica plays at once."""
    completions: int = Field(256, ge=1)
    """Completions that a replica makes at once."""
    queue: int = Field(64, ge=0)
    """Requests of each kind that may wait in a replica; the next one gets 429 and Retry-After."""
    queue_timeout_s: float = Field(30.0, gt=0)
    """Longest time in that queue."""
    workflow_timeout_s: float = Field(300.0, gt=0)
    """Longest time for a workflow; a request may ask for less."""
    read_timeout_s: float = Field(10.0, gt=0)
    """Longest time for a request's body to arrive."""
    drain_s: float = Field(60.0, ge=0)
    """What is being answered at the end may go on for so long."""
    max_body_kib: int = Field(1024, ge=1)
    """Largest body of a request."""
    max_question_chars: int = Field(32_768, ge=1)
    """Longest question."""
    temperature: float = Field(0.0, ge=0)
    """Of workflows that do not say theirs; 0: greedy."""
    keep: int = Field(1000, ge=0)
    """Ended workflows that `GET /v1/workflows/ID` still knows."""
    keep_s: float = Field(3600.0, ge=0)
    """For how long it knows them."""
    keys: str | None = None
    """File of API keys (`wfr serve key`); none: whoever reaches the port may ask."""
    cors_origins: tuple[str, ...] = ()
    """Other origins whose pages may ask; none: no page but the service's own."""
    log_prompts: bool = False
    """Write questions and answers to the access log."""
    journal: str | None = None
    """Directory in which rated workflows are journalled for training; none: nothing is kept."""
    redact: str | None = None
    """`module:function` that gets each trajectory before it is written, and returns what may be
    kept of it, tokens included, or None."""
    poll_s: float = Field(5.0, gt=0)
    """How often a followed run is looked at for a newer checkpoint."""
    canary: CanaryConfig = CanaryConfig()

    @property
    def elastic(self) -> bool:
        """Whether replicas come and go."""
        return self.max_replicas is not None and self.max_replicas > self.replicas

    @property
    def direct(self) -> bool:
        """Whether replicas listen themselves."""
        return self.ingress == "direct" or (self.ingress == "auto" and not self.elastic)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: name both or none")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas={self.max_replicas} is below replicas={self.replicas}; raise it"
            )
        if self.ingress == "direct" and self.elastic:
            raise ValueError(
                f"ingress=direct does not count requests, which max_replicas={self.max_replicas} "
                "needs; use ingress=proxy"
            )
        if self.redact is not None and self.redact.count(":") != 1:
            raise ValueError(f"redact={self.redact!r} is not of the form module:function")
        return self
