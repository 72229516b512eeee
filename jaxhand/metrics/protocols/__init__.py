"""Protocols of benchmarks: the same numbers as the official code, with its names, units and joint order."""

from jaxhand.metrics.protocols.base import Protocol, Scores
from jaxhand.metrics.protocols.dexycb import DEXYCB
from jaxhand.metrics.protocols.freihand import FREIHAND, HO3D
from jaxhand.metrics.protocols.hamer import HAMER, HINT
from jaxhand.metrics.protocols.interhand import INTERHAND

PROTOCOLS = {protocol.name: protocol for protocol in (FREIHAND, HO3D, DEXYCB, INTERHAND, HAMER, HINT)}

__all__ = ["PROTOCOLS", "Protocol", "Scores"]
