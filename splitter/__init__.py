"""Where to cut an ONNX model between a device and a server, what that buys, and the runtime that does it."""

__version__ = "0.1.0"
