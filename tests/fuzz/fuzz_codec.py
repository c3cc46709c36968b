"""Coverage-guided fuzzing of decoding: ``python tests/fuzz/fuzz_codec.py -runs=100000``.

Payloads and configurations are both hostile: one comes off the wire, the other from a plan or a
manifest. Whatever they hold, an array of the form that was asked for comes out, or a CodecError, and
never more memory than the tensor and the chain's own bounds need. libFuzzer's own options are taken.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["splitter.codec"]):
    from splitter.codec import Codec

import msgspec
import numpy as np

from splitter.errors import CodecError
from splitter.graph.values import ITEM_BYTES
from tests.contract import CASES, check_hostile

DTYPES = tuple(ITEM_BYTES)
MOST_BYTES = 64 << 20
"""Of a tensor: shapes are the receiver's own, and it says how large they may be."""
ROOM_BYTES = 1 << 30
"""Of the whole process: far above what this program needs, far below what a hostile size asks for."""

TEXTS = [msgspec.json.encode(case.codec) for case in CASES]


def draw_shape(data: atheris.FuzzedDataProvider) -> tuple[int, ...]:
    rank = data.ConsumeIntInRange(0, 4)
    small = data.ConsumeBool()
    return tuple(data.ConsumeIntInRange(-1, 9 if small else 1 << 33) for _ in range(rank))


def decode_payload(data: atheris.FuzzedDataProvider) -> None:
    """A payload of a known chain, changed or made up, as a tensor that the chain takes."""
    case = CASES[data.ConsumeIntInRange(0, len(CASES) - 1)]
    dtype = case.dtypes[data.ConsumeIntInRange(0, len(case.dtypes) - 1)]
    shape = case.shapes[data.ConsumeIntInRange(0, len(case.shapes) - 1)]
    payload = b""
    if data.ConsumeBool():
        payload = case.codec.encode(case.make(dtype, shape, data.ConsumeIntInRange(0, 3)))
    start = data.ConsumeIntInRange(0, len(payload))
    end = data.ConsumeIntInRange(start, len(payload))
    middle = data.ConsumeBytes(data.ConsumeIntInRange(0, 64))
    payload = payload[:start] + middle + payload[end:]
    told = shape if data.ConsumeBool() else draw_shape(data)
    check_hostile(case.codec, payload, dtype, told, MOST_BYTES)


def decode_configuration(data: atheris.FuzzedDataProvider) -> None:
    """The JSON of a chain, changed, and then used both ways."""
    text = TEXTS[data.ConsumeIntInRange(0, len(TEXTS) - 1)]
    start = data.ConsumeIntInRange(0, len(text))
    end = data.ConsumeIntInRange(start, min(len(text), start + 40))
    text = text[:start] + data.ConsumeBytes(data.ConsumeIntInRange(0, 40)) + text[end:]
    try:
        codec = msgspec.json.decode(text, type=Codec)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    use(codec, data)


def chain_stages(data: atheris.FuzzedDataProvider) -> None:
    """Stages in any order: a plan may name a chain that nobody tried."""
    known = [stage for case in CASES for stage in case.codec.stages]
    picked = (
        data.ConsumeIntInRange(0, len(known) - 1) for _ in range(data.ConsumeIntInRange(0, 8))
    )
    use(Codec("any", tuple(known[index] for index in picked)), data)


def use(codec: Codec, data: atheris.FuzzedDataProvider) -> None:
    dtype = DTYPES[data.ConsumeIntInRange(0, len(DTYPES) - 1)]
    shape = tuple(data.ConsumeIntInRange(0, 5) for _ in range(data.ConsumeIntInRange(0, 4)))
    array = np.zeros(shape, np.float32).astype(CASES[0].make(dtype, (), 0).dtype)
    payload = data.ConsumeBytes(64)
    try:
        made = codec.encode(array)
    except CodecError:
        made = payload
    check_hostile(codec, made, dtype, shape)
    check_hostile(codec, payload, dtype, shape)
    check_hostile(codec, payload, dtype, draw_shape(data), MOST_BYTES)


TARGETS = (decode_payload, decode_configuration, chain_stages)


def fuzz_one(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    TARGETS[provider.ConsumeIntInRange(0, len(TARGETS) - 1)](provider)


def main() -> None:
    # a size that is believed is a MemoryError here, which no check takes for an answer
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, used + ROOM_BYTES))
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
