"""The encodings in which a model's input may be sent as it is: what a split has to beat."""

from __future__ import annotations

from math import prod

from splitter.codec.codec import Codec
from splitter.codec.flac import Flac
from splitter.codec.image import Jpeg, Png, Webp, WebpLossless
from splitter.codec.pcm import Pcm
from splitter.codec.pixels import NearPixels, Pixels
from splitter.codec.zstd import Zstd
from splitter.errors import CodecError
from splitter.graph.values import Tensor
from splitter.preprocess import Preprocess

JPEG_QUALITIES = (98, 95, 85, 75, 60, 40)
WEBP_QUALITIES = (95, 90, 75, 50, 30)


def input_codecs(
    tensor: Tensor, recipe: Preprocess | None, audio_rate: int | None
) -> tuple[Codec, ...]:
    """Codecs of an input that ``recipe`` made of photos, or of sound; none for any other tensor.

    Those without loss come first, then each format from its best quality down.
    """
    found: list[Codec] = []
    if recipe is not None:
        found += _of_images(recipe)
    if audio_rate is not None and _is_row(tensor):
        found += _of_sound(audio_rate)
    return tuple(codec for codec in found if _takes(codec, tensor))


def _of_images(recipe: Preprocess) -> list[Codec]:
    exact, near = Pixels(recipe), NearPixels(recipe)
    return [
        Codec("uint8-zstd", (exact, Zstd())),
        Codec("png", (exact, Png())),
        Codec("webp-lossless", (exact, WebpLossless())),
        *(Codec(f"jpeg-{quality}", (near, Jpeg(quality))) for quality in JPEG_QUALITIES),
        *(Codec(f"webp-{quality}", (near, Webp(quality))) for quality in WEBP_QUALITIES),
    ]


def _of_sound(rate: int) -> list[Codec]:
    return [Codec("int16-zstd", (Pcm(), Zstd())), Codec("flac", (Pcm(), Flac(rate)))]


def _is_row(tensor: Tensor) -> bool:
    """All elements lie along one dimension; of a recurrent model's state they do not."""
    return tensor.shape is not None and 1 < prod(tensor.shape) == max(tensor.shape, default=0)


def _takes(codec: Codec, tensor: Tensor) -> bool:
    if tensor.nbytes is None or tensor.shape is None:
        return False
    try:
        codec.forms(tensor.dtype, tensor.shape)
    except CodecError:
        return False
    return True
