"""Fixtures of `augment_photos`: torchvision's functions on float64 tensors, one transform at a time and all together.

A case `augment_photos.NAME` is one photograph: `image` H,W,3 u8; `draw` 16 words as int32, the engine's PhotoDraw, whose
singles the computation here starts from too; `out` size,size,3 float64. Its attributes: size, mean, std. What a case is
about is its name up to the first `-`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as V
from torchvision.transforms.v2.functional import _color as colour

from reference_ops import Fixtures

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def single(value: float) -> float:
    """The float32 nearest to a value."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


@dataclass
class Draw:
    """What is done to one image: `box` is (top, left, height, width), all of it if absent."""

    box: tuple[int, int, int, int] | None = None
    resized: tuple[int, int] | None = None  # rows and columns that the box becomes; the output's side if absent
    crop: tuple[int, int] = (0, 0)  # the first row and column of these that is written
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    order: tuple[int, ...] = (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    flip: bool = False
    grey: bool = False
    sigma: float = 0.0
    normalised: bool = False
    names: tuple[str, ...] = field(default=("brightness", "contrast", "saturation", "hue", "sigma"), repr=False)

    def __post_init__(self) -> None:
        for name in self.names:
            setattr(self, name, single(getattr(self, name)))


def shifted_hue(image: Tensor, turns: float) -> Tensor:
    """`adjust_hue` in float64: the public one goes through float32."""
    h, s, v = colour._rgb_to_hsv(image).unbind(-3)  # noqa: SLF001
    return colour._hsv_to_rgb(torch.stack(((h + turns).remainder(1.0), s, v), -3))  # noqa: SLF001


def augmented(image: Tensor, draw: Draw, size: int) -> Tensor:
    """H,W,3 u8 -> size,size,3."""
    height, width, _ = image.shape
    top, left, rows, columns = draw.box or (0, 0, height, width)
    x = image.permute(2, 0, 1).double() / 255
    x = V.resized_crop(x, top, left, rows, columns, list(draw.resized or (size, size)), antialias=True)
    x = V.crop(x, *draw.crop, size, size)
    steps = {
        BRIGHTNESS: lambda x: V.adjust_brightness(x, draw.brightness),
        CONTRAST: lambda x: V.adjust_contrast(x, draw.contrast),
        SATURATION: lambda x: V.adjust_saturation(x, draw.saturation),
        HUE: lambda x: shifted_hue(x, draw.hue),
    }
    neutral = {BRIGHTNESS: draw.brightness == 1, CONTRAST: draw.contrast == 1, SATURATION: draw.saturation == 1, HUE: draw.hue == 0}
    for step in draw.order:
        if not neutral[step]:
            x = steps[step](x)
    if draw.grey:
        x = V.rgb_to_grayscale(x, num_output_channels=3)
    if draw.sigma > 0:
        x = V.gaussian_blur(x, [2 * min(math.ceil(3 * draw.sigma), size - 1) + 1] * 2, [draw.sigma] * 2)
    if draw.flip:
        x = V.horizontal_flip(x)
    if draw.normalised:
        x = V.normalize(x, list(MEAN), list(STD))
    return x.permute(1, 2, 0)


def words(image: Tensor, draw: Draw, size: int) -> Tensor:
    """The engine's PhotoDraw."""
    height, width, _ = image.shape
    box = draw.box or (0, 0, height, width)
    resized = draw.resized or (size, size)
    order = sum(step << (2 * place) for place, step in enumerate(draw.order))
    packed = struct.pack(
        "<4I4f4f2IfI",
        *box,
        *(extent / to for extent, to in zip(box[2:], resized, strict=True)),
        *draw.crop,
        draw.brightness,
        draw.contrast,
        draw.saturation,
        draw.hue,
        order,
        draw.flip + 2 * draw.grey,
        draw.sigma,
        0,
    )
    return torch.tensor(struct.unpack("<16i", packed), dtype=torch.int32)


def cases() -> dict[str, tuple[tuple[int, int], int, Draw]]:
    """By name: rows and columns of the photograph, side of the output, what is done."""
    square, backwards = (11, 11), (HUE, SATURATION, CONTRAST, BRIGHTNESS)
    everything = Draw(
        (2, 3, 19, 25), None, (0, 0), 1.3, 0.7, 1.35, 0.09, (1, 3, 0, 2), flip=True, sigma=1.1, normalised=True
    )
    return {
        "resize-reduce": ((29, 40), 11, Draw((3, 5, 21, 32))),
        "resize-reduce_far": ((37, 45), 5, Draw()),
        "resize-enlarge": ((9, 13), 12, Draw((1, 2, 7, 6))),
        "resize-both": ((30, 9), 12, Draw((0, 1, 30, 7))),
        "resize-as_it_is": (square, 11, Draw()),
        "resize-one_pixel": ((8, 9), 6, Draw((7, 8, 1, 1))),
        "resize-one_row": ((8, 19), 6, Draw((5, 0, 1, 19))),
        "resize-one_column": ((17, 8), 6, Draw((0, 3, 17, 1))),
        "resize-to_one_pixel": ((7, 9), 1, Draw((1, 1, 5, 7))),
        "centre-landscape": ((24, 33), 12, Draw(None, (15, 20), (2, 4))),
        "centre-portrait": ((20, 11), 12, Draw(None, (25, 14), (6, 1))),
        "centre-enlarged": ((9, 9), 12, Draw(None, (14, 14), (1, 1))),
        "brightness-up": (square, 11, Draw(brightness=1.4)),
        "brightness-down": (square, 11, Draw(brightness=0.6)),
        "contrast-up": (square, 11, Draw(contrast=1.4)),
        "contrast-down": (square, 11, Draw(contrast=0.6)),
        "saturation-up": (square, 11, Draw(saturation=1.4)),
        "saturation-down": (square, 11, Draw(saturation=0.6)),
        "hue-up": (square, 11, Draw(hue=0.3)),
        "hue-down": (square, 11, Draw(hue=-0.1)),
        "hue-half": (square, 11, Draw(hue=0.5)),
        "grey-": (square, 11, Draw(grey=True)),
        "flip-": ((10, 15), 9, Draw((1, 2, 8, 12), flip=True)),
        "normalise-": (square, 11, Draw(normalised=True)),
        "blur-weak": (square, 11, Draw(sigma=0.1)),
        "blur-middle": (square, 11, Draw(sigma=0.9)),
        "blur-strong": (square, 11, Draw(sigma=2.0)),
        "blur-all_of_it": (square, 11, Draw(sigma=7.0)),
        "jitter-forwards": (square, 11, Draw(None, None, (0, 0), 1.25, 0.75, 1.4, -0.05)),
        "jitter-backwards": (square, 11, Draw(None, None, (0, 0), 1.25, 0.75, 1.4, -0.05, backwards)),
        "all-": ((24, 31), 13, everything),
        "all-grey": ((24, 31), 13, Draw(**{**vars(everything), "order": backwards, "grey": True, "flip": False})),
    }


def photo_fixtures() -> tuple[dict[str, Tensor], dict[str, str]]:
    """All cases: tensors by key, attributes by case."""
    out = Fixtures()
    for seed, (name, ((height, width), size, draw)) in enumerate(cases().items()):
        case = f"augment_photos.{name}"
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
        # Some greys, on which hues are undefined, and black and white.
        image[0, :3] = torch.tensor([[0] * 3, [255] * 3, [128] * 3], dtype=torch.uint8)[: width]
        mean, std = (MEAN, STD) if draw.normalised else ((0.0,) * 3, (1.0,) * 3)
        out.add(
            case,
            {"size": size, "mean": mean, "std": std},
            image=image,
            draw=words(image, draw, size),
            out=augmented(image, draw, size),
        )
    return out.tensors, out.metadata
