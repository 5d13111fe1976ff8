"""The servers that tests of presence share."""

from __future__ import annotations

from tests.support.redis import cluster_url, redis_url, sentinel_url

__all__ = ["cluster_url", "redis_url", "sentinel_url"]
