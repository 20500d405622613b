"""How queries, keys and values are read as they enter attention, [b, h, n, d_head]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitreg.types import Probe, Tap

QueryKey = Callable[[Mapping[str, Any]], tuple[Tensor, Tensor]]
"""From what taps delivered to q and k, each [b, h, n, d_head]."""


def qkv_probes(taps: Mapping[str, Tap], query_key: QueryKey, values: Probe | None = None) -> dict[str, Probe]:
    """Return how q, k and, where that is known, v are read."""
    found = {
        "queries": Probe(taps, lambda seen: query_key(seen)[0]),
        "keys": Probe(taps, lambda seen: query_key(seen)[1]),
    }
    return found if values is None else {**found, "values": values}


def tap_modules(query: nn.Module, key: nn.Module, values: Probe | None = None) -> dict[str, Probe]:
    """Return how q and k are read that leave two modules as they enter attention."""
    taps = {"query": Tap(query), "key": Tap(key)}
    return qkv_probes(taps, lambda seen: (seen["query"], seen["key"]), values)


def projected_values(module: nn.Module, num_heads: int, *, part: int = 0, parts: int = 1) -> Probe:
    """Return how v is read where it leaves a projection, as one of `parts` side by side in each token."""

    def read(seen: Mapping[str, Any]) -> Tensor:
        return rearrange(seen["v"], "b n (part h d) -> part b h n d", part=parts, h=num_heads)[part]

    return Probe({"v": Tap(module)}, read)


def project_heads(tokens: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int) -> Tensor:
    """Return tokens [b, n, d] projected by a weight that no module applies alone, split into heads."""
    return rearrange(F.linear(tokens, weight, bias), "b n (h d) -> b h n d", h=num_heads)
