"""Encoders for use without this package: ``export(model, to="onnx", out="encoder.onnx")``."""

from foundation.zoo.targets.writing import Written, export

__all__ = ["Written", "export"]
