"""The gate: how much later text will look at a token, scored when it is read; how it is fitted."""

from ov_kvcrush.export.gate.measurement import GateMeasurement, measure_gate
from ov_kvcrush.export.gate.repeating import nats_when_repeating

__all__ = ["GateMeasurement", "measure_gate", "nats_when_repeating"]
