"""Coverage-guided fuzzing of requests: ``python tests/fuzz/fuzz_wire.py -runs=100000``.

Bytes of a ``ModelInferRequest`` go through all that a server does with them, without sockets. Every field is
drawn: from what is right, from what is nearly right, or from the fuzzer's bytes; in the end a few bytes
of the message itself may change. Whatever comes, there is an answer that parses, or a refusal with one
of the statuses that the protocol's users expect and a line of text; nothing stays reserved; and memory
stays bounded. libFuzzer's own options are taken.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["splitter.serving", "splitter.codec"]):
    from splitter.codec import get_codec
    from splitter.serving.server.admission import Admission
    from splitter.serving.server.batching import Policy, Scheduler
    from splitter.serving.server.inference import Call, Inference
    from splitter.serving.server.loading import Loader
    from splitter.serving.server.repository import Repository
    from splitter.serving.server.status import Refusal

import numpy as np

from splitter.serving import wire
from splitter.serving._pb2 import open_inference_pb2 as pb
from tests.serving import make_batching, make_bundle, sums

EXPECTED = {
    "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
}  # fmt: skip
ROOM_BYTES = 1 << 30
"""Of the whole process, over what it has at the start."""

DATATYPES = (*wire.DATATYPE_OF.values(), "BYTES", "", "fp32")
SIZES = (0, 1, 2, 4, 5, 8, -1, 1 << 31, 1 << 62, (1 << 63) - 1, -(1 << 63))
KEYS = ("bundle", "cut", "priority", "timeout", "codec", "dtype", "shape", "binary_data", "x")
FIELDS = (
    "bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents",
    "fp32_contents", "fp64_contents", "bytes_contents",
)  # fmt: skip
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


class Target:
    """Two tails: one takes batches, and one fixed shapes in a codec."""

    def __init__(self, folder: Path) -> None:
        batching = make_batching(folder / "a")
        make_bundle(_with_axes(), folder / "b", ["a"])
        loader = Loader(Scheduler(1), Policy(max_batch=4), None)
        (folder / "served").mkdir()
        batching.rename(folder / "served" / "1")
        (folder / "b" / "bundle").rename(folder / "served" / "2")
        self.repository = Repository(folder / "served", loader)
        self.repository.load_all()
        self.admission = Admission(None, 64 << 20)
        self.inference = Inference(self.repository, self.admission)
        self.digests = [one.manifest.digest for one in self.repository.ready()]
        self.cuts = [one.default.id for one in self.repository.ready()]
        assert len(self.digests) == 2

    def check(self, message: bytes) -> None:
        """Send it, and demand an answer or a refusal."""
        found = self.inference.answer(message, Call(remaining_s=60))
        if isinstance(found, Refusal):
            assert found.code.name in EXPECTED, found
            assert found.details
            assert "\n" not in found.details
            assert len(found.details) <= 1000
        else:
            response = pb.ModelInferResponse.FromString(found)
            assert len(response.outputs) == len(response.raw_output_contents) > 0
        assert self.admission.nbytes == 0


def _with_axes() -> object:
    import onnx

    model = sums()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "axes"))
    return model


class Draw:
    """Draws the parts of a request."""

    def __init__(self, data: atheris.FuzzedDataProvider, target: Target) -> None:
        self.data, self.target = data, target

    def one_of(self, values: tuple | list) -> object:
        return values[self.data.ConsumeIntInRange(0, len(values) - 1)]

    def chance(self, of: int) -> bool:
        return self.data.ConsumeIntInRange(0, of - 1) == of - 1  # no data: what is right

    def text(self, *usual: str) -> str:
        if usual and not self.chance(6):
            return str(self.one_of(usual))
        return str(self.data.ConsumeUnicodeNoSurrogates(12))

    def shape(self) -> list[int]:
        if not self.chance(4):
            return list(self.one_of(([1, 4], [2, 4], [4, 4])))
        rank = self.data.ConsumeIntInRange(0, 5)
        return [int(self.one_of(SIZES)) for _ in range(rank)]

    def parameter(self, parameters: object, key: str) -> None:
        kind = self.data.ConsumeIntInRange(0, 5)
        parameter = parameters[key]
        if kind == 0:
            parameter.bool_param = self.data.ConsumeBool()
        elif kind == 1:
            parameter.int64_param = int(self.one_of(SIZES))
        elif kind == 2:
            parameter.double_param = self.data.ConsumeFloat()
        elif kind == 3:
            parameter.uint64_param = self.data.ConsumeUInt(8)
        elif kind == 4:
            known = [*self.target.digests, *self.target.cuts, "zstd", "raw", "FP32", "1,4", "2,4"]
            parameter.string_param = self.text(*known)

    def parameters(self, parameters: object) -> None:
        for _ in range(self.data.ConsumeIntInRange(0, 2)):
            self.parameter(parameters, self.text(*KEYS))

    def payload(self) -> bytes:
        rows = ROWS[: self.data.ConsumeIntInRange(0, 2)]
        made = get_codec("zstd" if self.data.ConsumeBool() else "raw").encode(rows)
        if not self.chance(3):
            return made
        at = self.data.ConsumeIntInRange(0, len(made))
        return (
            made[:at] + self.data.ConsumeBytes(16) + made[at + self.data.ConsumeIntInRange(0, 16) :]
        )

    def packed(self, header: object, payload: bytes) -> None:
        header.datatype = "UINT8"
        header.shape[:] = [len(payload)]
        for key, usual in (("codec", "zstd"), ("dtype", "FP32"), ("shape", "2,4")):
            header.parameters[key].string_param = self.text(usual, usual, usual, "1,4", "raw")

    def tensor(self, request: pb.ModelInferRequest) -> None:
        header = request.inputs.add(name=self.text("a", "a", "a", "x"))
        header.datatype = self.text("FP32", "FP32", "FP32", *DATATYPES)
        header.shape.extend(self.shape())
        self.parameters(header.parameters)
        if self.chance(4):
            field = str(self.one_of(FIELDS))
            values = [self.data.ConsumeIntInRange(0, 1) for _ in range(self.one_of((4, 8, 3)))]
            if field == "bytes_contents":
                values = [bytes(value) for value in values]
            getattr(header.contents, field).extend(values)
        else:
            payload = self.payload()
            if self.data.ConsumeBool():
                self.packed(header, payload)
            request.raw_input_contents.append(payload)

    def request(self) -> bytes:
        request = pb.ModelInferRequest(
            model_name=self.text("sums", "sums", "model"),
            model_version=self.text("", "", "1", "2"),
            id=self.text("", "7"),
        )
        self.parameters(request.parameters)
        for _ in range(self.data.ConsumeIntInRange(0, 3) if self.chance(6) else 1):
            self.tensor(request)
        for _ in range(self.data.ConsumeIntInRange(0, 2)):
            output = request.outputs.add(name=self.text("y", "s", "z"))
            if self.data.ConsumeBool():
                self.parameter(output.parameters, self.text("codec", "x"))
        if self.chance(8):  # long enough to be read by hand
            request.parameters["x"].string_param = "x" * (20 << 10)
        message = bytearray(request.SerializeToString())
        for _ in range(self.data.ConsumeIntInRange(0, 3) if message and self.chance(3) else 0):
            message[self.data.ConsumeIntInRange(0, len(message) - 1)] ^= self.data.ConsumeUInt(1)
        return bytes(message)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        target = Target(Path(name))

        def fuzz_one(data: bytes) -> None:
            provider = atheris.FuzzedDataProvider(data)
            if provider.ConsumeIntInRange(0, 7) == 7:
                target.check(provider.ConsumeBytes(1 << 16))
            else:
                target.check(Draw(provider, target).request())

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, used + ROOM_BYTES))
        atheris.Setup(sys.argv, fuzz_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
