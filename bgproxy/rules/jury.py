"""The judges elsewhere that have a vote on a release while it bakes, as a plan names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class PrometheusJudge:
    """A query whose answer must stay within limits, asked over and over while a release bakes."""

    kind: Literal["prometheus"] = "prometheus"
    name: str = ""
    url: str = ""  # of the server, without /api/v1/query
    query: str = ""  # PromQL, an instant query; each sample that it finds is looked at
    max: float | None = None
    min: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    interval: float = 10.0
    timeout: float = 5.0
    in_a_row: int = 1  # votes against the release in a row that decide


@dataclass(frozen=True, slots=True)
class WebhookJudge:
    """Somebody who is told by POST how a release does, over and over, and answers with a verdict."""

    kind: Literal["webhook"] = "webhook"
    name: str = ""
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    secret: str = ""  # signs what is sent (HMAC-SHA256)
    interval: float = 10.0
    timeout: float = 5.0
    in_a_row: int = 1


BakeJudge = PrometheusJudge | WebhookJudge
