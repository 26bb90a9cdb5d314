"""THE list of shapes, for tests and benchmarks alike.

"bench": layers of known networks, the ones every speed is quoted for. "edge": small shapes at the
edges of what is legal. Shapes are (N, C, *spatial) and (K, C/groups, *kernel).
"""

from dataclasses import dataclass, field, replace
from typing import Any

from pyconv.bench.cases import LAYERS

Ints = int | tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A convolution."""

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: Ints = 1
    padding: Any = 0
    dilation: Ints = 1
    groups: int = 1
    padding_mode: str = "zeros"
    flip: bool = False
    tags: frozenset[str] = field(default=frozenset({"edge"}))

    @property
    def axes(self) -> int:
        return len(self.x) - 2

    @property
    def window(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "flip")
        return {name: getattr(self, name) for name in names}

    def thin(self) -> "Case":
        """One image and a small map: all channels and taps in a hundredth of the work."""
        small = tuple(min(size, 16 if self.axes < 3 else 6) for size in self.x[2:])
        return replace(self, x=(1, self.x[1], *small))


@dataclass(frozen=True)
class TransposedCase:
    """A transposed convolution; w is (C, K/groups, *kernel)."""

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: Ints = 1
    padding: Any = 0
    output_padding: Ints = 0
    groups: int = 1
    dilation: Ints = 1

    @property
    def axes(self) -> int:
        return len(self.x) - 2

    @property
    def window(self) -> dict[str, Any]:
        names = ("stride", "padding", "output_padding", "groups", "dilation")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class PoolCase:
    name: str
    x: tuple[int, ...]
    kernel_size: Ints
    stride: Ints | None = None
    padding: Ints = 0
    dilation: Ints = 1
    ceil_mode: bool = False
    tags: frozenset[str] = field(default=frozenset({"edge"}))

    @property
    def axes(self) -> int:
        return len(self.x) - 2

    @property
    def window(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("stride", "padding", "ceil_mode")}


# The layers of `pyconv bench`, where one table has them for both.
BENCH = [
    Case(
        layer.name, layer.x, layer.w, layer.stride, layer.padding, layer.dilation, layer.groups,
        tags=frozenset({"bench"}),
    )
    for layer in LAYERS
    if layer.kind == "conv"
]  # fmt: skip

# Around the widths of vectors (4, 8, 16) and of register tiles.
CHANNELS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 48, 64, 65)

EDGE = [
    Case("board", (1, 1, 3, 3), (1, 1, 2, 2)),
    Case("one-of-everything", (1, 1, 1, 1), (1, 1, 1, 1)),
    Case("first-phase-has-no-tap", (3, 1, 13, 2), (12, 1, 3, 2), (1, 3), ((2, 3), (2, 2)), (2, 1)),
    Case("1x1", (2, 5, 4, 7), (3, 5, 1, 1)),
    Case("1x1-stride", (2, 5, 9, 7), (3, 5, 1, 1), stride=(3, 2)),
    Case("1x1-padding", (1, 3, 2, 3), (4, 3, 1, 1), padding=2),
    Case("unequal", (2, 3, 5, 11), (4, 3, 3, 2), stride=(1, 2), padding=(2, 0)),
    Case("tall", (1, 2, 37, 1), (3, 2, 4, 1)),
    Case("wide", (1, 2, 1, 37), (3, 2, 1, 4), padding=(0, 3)),
    Case("wide-row-33", (1, 3, 2, 67), (5, 3, 2, 5), padding=(1, 2)),
    Case("stride-above-kernel", (2, 3, 13, 11), (4, 3, 2, 3), stride=(4, 5)),
    Case("stride-above-input", (1, 2, 4, 5), (3, 2, 3, 3), stride=9),
    Case("stride-leaves-rest", (1, 2, 10, 9), (2, 2, 3, 3), stride=(4, 3)),
    Case("stride-3-padding-2", (2, 4, 10, 13), (5, 4, 5, 4), stride=3, padding=2),
    Case("padding-is-kernel", (1, 2, 4, 3), (3, 2, 2, 3), padding=(2, 3)),
    Case("padding-above-kernel", (2, 2, 3, 2), (3, 2, 2, 2), padding=(5, 4)),
    Case("padding-stride", (1, 2, 3, 4), (2, 2, 2, 2), stride=3, padding=4),
    Case("padding-sides", (2, 3, 6, 7), (4, 3, 3, 3), padding=((2, 0), (1, 3))),
    Case("padding-left-only", (1, 3, 5, 6), (2, 3, 2, 4), padding=((1, 0), (3, 0))),
    Case("valid", (1, 3, 6, 7), (2, 3, 3, 2), padding="valid"),
    Case("full", (1, 3, 6, 7), (2, 3, 3, 2), padding="full"),
    Case("same", (2, 3, 6, 7), (2, 3, 3, 4), padding="same"),
    Case("same-lower", (2, 3, 6, 7), (2, 3, 3, 4), padding="same_lower"),
    Case("same-stride", (1, 3, 11, 8), (4, 3, 4, 5), stride=(2, 3), padding="same"),
    Case("same-lower-stride", (1, 3, 11, 8), (4, 3, 4, 5), stride=(3, 2), padding="same_lower"),
    Case("same-stride-above-kernel", (1, 2, 9, 7), (3, 2, 2, 1), stride=4, padding="same"),
    Case("same-dilation", (1, 2, 9, 8), (3, 2, 3, 2), dilation=(2, 3), padding="same"),
    Case("dilation", (2, 3, 12, 9), (4, 3, 3, 2), dilation=(2, 5)),
    Case("dilation-stride-padding", (1, 3, 11, 13), (2, 3, 3, 3), 2, 3, (3, 2)),
    Case("dilation-fills-input", (1, 2, 9, 5), (3, 2, 3, 3), dilation=(4, 2)),
    Case("dilation-above-input", (1, 2, 3, 3), (3, 2, 2, 2), padding=3, dilation=5),
    Case("kernel-fills-input", (3, 4, 5, 4), (6, 4, 5, 4)),
    Case("kernel-11", (1, 2, 15, 14), (3, 2, 11, 11), padding=5),
    Case("kernel-17-stride", (2, 3, 40, 37), (4, 3, 17, 15), (2, 3), (8, 0)),
    Case("kernel-31", (1, 5, 40, 37), (6, 5, 31, 31), padding=15),
    Case("kernel-13-depthwise", (2, 6, 45, 39), (6, 1, 13, 13), padding=6, groups=6),
    Case("kernel-9-dilation", (1, 4, 51, 44), (6, 2, 9, 7), 1, (9, 12), 3, 2, "reflect"),
    Case("kernel-wide", (1, 2, 5, 90), (3, 2, 3, 65), padding=(1, 7), flip=True),
    Case("kernel-even", (1, 3, 8, 9), (4, 3, 4, 6), padding=(1, 2)),
    Case("groups", (2, 6, 7, 5), (9, 2, 3, 3), padding=1, groups=3),
    Case("groups-wide", (1, 34, 5, 6), (38, 17, 3, 2), padding=1, groups=2),
    Case("groups-stride", (2, 8, 9, 7), (4, 2, 3, 2), (2, 3), 1, 1, 4),
    Case("depthwise", (2, 7, 8, 9), (7, 1, 3, 3), padding=1, groups=7),
    Case("depthwise-stride", (1, 17, 9, 8), (17, 1, 3, 5), (2, 1), 2, 1, 17),
    Case("depthwise-dilation", (1, 5, 11, 12), (5, 1, 3, 3), 1, 2, 2, 5),
    Case("depthwise-multiplier", (2, 5, 6, 7), (15, 1, 3, 3), padding=1, groups=5),
    Case("depthwise-multiplier-8", (1, 3, 6, 7), (24, 1, 3, 2), padding=1, groups=3),
    Case("depthwise-1x1", (2, 9, 3, 5), (9, 1, 1, 1), groups=9),
    Case("depthwise-3x3-stride", (3, 35, 11, 8), (35, 1, 3, 3), 2, 1, groups=35),
    Case("depthwise-7x7", (2, 33, 9, 10), (33, 1, 7, 7), padding=(2, 3), groups=33),
    Case("depthwise-7x7-stride", (1, 3, 12, 17), (3, 1, 7, 7), 2, 3, groups=3, flip=True),
    Case("depthwise-split", (4, 2, 40, 50), (2, 1, 3, 3), padding=1, groups=2),
    Case("depthwise-5x5-stride", (2, 40, 15, 17), (40, 1, 5, 5), 2, 2, 1, 40),
    Case("depthwise-tiles", (1, 19, 4, 30), (19, 1, 2, 7), padding=(1, 3), groups=19),
    Case("depthwise-wide-filter", (1, 18, 3, 20), (18, 1, 1, 11), padding=(0, 4), groups=18),
    Case("depthwise-reflect", (1, 17, 9, 11), (17, 1, 3, 5), 2, 2, 1, 17, "reflect"),
    # Several tiles of 7 columns inside an image, pairs of lines that share rows and that do not.
    Case("depthwise-wide", (2, 20, 7, 75), (20, 1, 5, 5), 2, 2, 1, 20, flip=True),
    Case("depthwise-wide-dilation", (1, 18, 11, 61), (18, 1, 3, 3), (2, 1), 4, (3, 2), 18),
    Case("depthwise-wide-circular", (1, 17, 6, 50), (17, 1, 4, 3), 1, (2, 1), 1, 17, "circular"),
    Case("groups-small-images", (9, 12, 7, 7), (24, 4, 3, 3), padding=1, groups=3),
    Case("groups-of-8", (2, 32, 6, 19), (32, 8, 3, 3), padding=1, groups=4),
    # Bundles of groups that fill a vector of channels, and groups of several vectors.
    Case("groups-of-4", (2, 32, 7, 9), (32, 4, 3, 3), padding=(0, 1), groups=8),
    Case("groups-of-8-tiles", (3, 16, 29, 33), (16, 8, 3, 3), padding=1, groups=2),
    Case("groups-of-16", (2, 48, 5, 13), (48, 16, 3, 3), padding=(2, 0), groups=3),
    Case("groups-of-32", (1, 64, 6, 5), (64, 32, 5, 5), 1, 2, 1, 2, "reflect", flip=True),
    Case("groups-of-64", (1, 128, 6, 7), (128, 64, 3, 3), padding=1, groups=2),
    Case("tiles-of-16", (1, 16, 9, 70), (16, 16, 3, 3), padding=1),
    Case("stride-2-wide", (1, 4, 9, 70), (9, 4, 3, 5), 2, (1, 2)),
    Case("stride-2-reflect", (1, 6, 9, 37), (8, 6, 3, 3), 2, 1, padding_mode="reflect"),
    Case("empty-batch", (0, 3, 5, 6), (4, 3, 3, 3), padding=1),
    Case("empty-batch-groups", (0, 4, 5, 6), (4, 1, 3, 3), groups=4),
    Case("batch-3", (3, 2, 5, 6), (4, 2, 3, 3)),
    Case("batch-9", (9, 1, 4, 4), (2, 1, 3, 3), padding=1),
    Case("flip", (2, 3, 6, 7), (4, 3, 3, 2), padding=(1, 0), flip=True),
    Case("flip-groups-dilation", (1, 4, 9, 8), (6, 2, 3, 2), 2, 2, 2, 2, flip=True),
    Case("many-rows-out", (1, 1, 70, 3), (1, 1, 3, 3), padding=1),
    Case("deep-sum", (1, 130, 4, 5), (3, 130, 3, 3), padding=1),
    *[
        Case(f"{mode}", (2, 3, 6, 5), (4, 3, 3, 3), padding=((2, 1), (0, 4)), padding_mode=mode)
        for mode in ("reflect", "replicate", "circular", "symmetric")
    ],
    *[
        Case(f"{mode}-most", (1, 2, 4, 3), (3, 2, 2, 3), 2, most, 2, padding_mode=mode)
        for mode, most in [
            ("reflect", (3, 2)),
            ("replicate", (7, 5)),
            ("circular", (4, 3)),
            ("symmetric", (4, 3)),
        ]
    ],
    Case("reflect-groups-flip", (1, 4, 5, 6), (4, 1, 3, 3), 1, 1, 1, 4, "reflect", flip=True),
    *[
        Case(f"channels-{c}-{k}", (2, c, 4, 5), (k, c, 3, 2), padding=1)
        for c, k in zip(CHANNELS, CHANNELS[7:] + CHANNELS[:7], strict=True)
    ],
    *[
        Case(f"channels-{c}-1x1", (1, c, 3, 5), (k, c, 1, 1))
        for c, k in zip(CHANNELS, reversed(CHANNELS), strict=True)
    ],
    # Lanes along the result channels, forward and in the input gradient.
    Case("lanes-stride-dilation", (2, 29, 11, 13), (37, 29, 3, 4), (2, 3), 1, (2, 1)),
    Case("lanes-groups-flip", (2, 60, 9, 15), (72, 30, 3, 3), padding=1, groups=2, flip=True),
    Case("lanes-reflect", (1, 18, 7, 30), (30, 18, 3, 3), 2, 1, padding_mode="reflect"),
    Case("lanes-columns", (1, 64, 3001), (47, 64, 6), 2, 3, 2),
    Case("lanes-parts", (1, 96, 5, 9), (160, 96, 4, 4), 2, 1),
    Case("lanes-3d", (1, 29, 4, 5, 6), (45, 29, 2, 3, 3), (1, 2, 2), (1, 0, 2)),
    # Enough tiles of 6x6 for blocks of a task's own, and for several that all threads share.
    Case("tiles", (2, 17, 61, 57), (35, 17, 3, 3), padding=1),
    Case("tiles-5x5", (3, 9, 25, 30), (18, 9, 5, 5), padding=(2, 1)),
    Case("tiles-deep", (1, 130, 70, 69), (9, 130, 3, 3), padding=1),
    Case("tiles-deep-blocks", (1, 520, 57, 60), (12, 520, 3, 3), padding=1),
    # Weight gradients with lanes along k: whole and part vectors and panels of it, blocks of both
    # kinds of channels, of lines, of columns and of images, x copied and read in place.
    Case("runs-reflect", (3, 6, 11, 10), (80, 6, 3, 5), (2, 1), (1, 2), 1, 1, "reflect", flip=True),
    Case("runs-dilation", (1, 9, 12, 13), (20, 9, 3, 3), (1, 2), (2, 3), (2, 3), 1, "circular"),
    Case("runs-in-place", (3, 12, 21, 40), (48, 12, 3, 3)),
    Case("runs-blocks", (2, 70, 9, 10), (144, 70, 3, 3), padding=1),
    Case("runs-apart", (2, 512, 5, 7), (32, 256, 1, 1), stride=2, groups=2),
    Case("runs-turned", (3, 16, 9, 31), (80, 16, 1, 1)),
    Case("runs-turned-stride", (2, 32, 7, 9), (96, 16, 1, 1), stride=(2, 3), groups=2),
    Case("runs-turned-3d", (2, 16, 5, 6, 7), (40, 16, 1, 1, 1), stride=(2, 1, 2)),
    Case("runs-wide", (1, 3, 3, 600), (33, 3, 3, 7), padding=(1, 3)),
    Case("runs-3d", (2, 5, 6, 7, 9), (17, 5, 3, 2, 3), (2, 1, 1), 1),
    Case("runs-3d-in-place", (2, 8, 5, 6, 7), (16, 8, 2, 3, 3)),
    Case("1d", (2, 3, 17), (4, 3, 5), padding=2),
    Case("1d-stride-dilation", (3, 5, 31), (2, 5, 4), 3, 4, 2),
    Case("1d-sides", (1, 2, 9), (3, 2, 4), padding=((3, 1),)),
    Case("1d-groups", (2, 6, 12), (6, 1, 3), padding="same", groups=6),
    Case("1d-long", (2, 3, 700), (4, 3, 129), padding=64),
    Case("1d-blocks", (1, 2, 5000), (4, 1, 257), 1, (100,), groups=2, padding_mode="circular"),
    Case("1d-long-stride-dilation", (1, 3, 3000), (2, 3, 90), 2, 31, 7),
    Case("1d-one", (1, 1, 1), (1, 1, 1)),
    Case("1d-circular", (1, 2, 7), (3, 2, 3), padding=3, padding_mode="circular"),
    Case("3d", (2, 3, 4, 5, 6), (4, 3, 3, 2, 3), padding=1),
    Case("3d-stride", (1, 2, 7, 6, 9), (3, 2, 2, 3, 1), (2, 1, 3), (1, 0, 2)),
    Case("3d-dilation-groups", (1, 4, 6, 7, 5), (6, 2, 2, 2, 3), 1, (1, 2, 2), (3, 2, 1), 2),
    Case("3d-depthwise", (1, 5, 4, 5, 6), (5, 1, 3, 3, 3), padding=1, groups=5),
    Case("3d-large", (2, 4, 4, 25, 33), (2, 2, 3, 11, 13), (2, 1, 1), (1, 5, 6), 1, 2, "replicate"),
    Case("3d-flat", (1, 3, 1, 5, 1), (2, 3, 1, 3, 1), padding=(0, 1, 0)),
    Case("3d-reflect", (1, 2, 3, 4, 5), (2, 2, 2, 3, 3), 1, 2, padding_mode="reflect"),
    Case("3d-full", (1, 2, 2, 3, 4), (3, 2, 3, 2, 2), padding="full"),
]

TRANSPOSED = [
    TransposedCase("one", (1, 1, 1, 1), (1, 1, 1, 1)),
    TransposedCase("plain", (2, 3, 4, 5), (3, 4, 3, 2)),
    TransposedCase("stride", (1, 3, 4, 5), (3, 2, 3, 3), (2, 3)),
    TransposedCase("stride-above-kernel", (1, 2, 4, 3), (2, 3, 2, 1), (3, 4)),
    TransposedCase("stride-above-kernel-all", (1, 2, 4, 3), (2, 3, 2, 1), (3, 4), 0, (2, 3)),
    TransposedCase("padding", (2, 3, 5, 6), (3, 4, 4, 3), 2, 1),
    TransposedCase("padding-sides", (1, 3, 5, 6), (3, 4, 4, 3), 2, ((1, 0), (0, 2))),
    TransposedCase("output-padding", (2, 3, 4, 5), (3, 2, 3, 4), (2, 3), 1, (1, 2)),
    TransposedCase("output-padding-dilation", (1, 2, 4, 5), (2, 3, 3, 2), 1, 1, (2, 1), 1, (3, 2)),
    TransposedCase("groups", (2, 6, 4, 3), (6, 2, 3, 3), 2, 1, 1, 3),
    TransposedCase("depthwise", (1, 9, 4, 5), (9, 1, 3, 3), 2, 1, 0, 9),
    TransposedCase("dilation", (1, 3, 5, 4), (3, 2, 2, 3), 2, 2, 0, 1, (2, 3)),
    TransposedCase("same", (1, 3, 5, 4), (3, 2, 4, 3), (2, 1), "same"),
    TransposedCase("same-stride-above-kernel", (1, 3, 5, 4), (3, 2, 2, 1), (3, 2), "same"),
    TransposedCase("valid", (1, 3, 5, 4), (3, 2, 4, 3), 2, "valid"),
    TransposedCase("wide-channels", (1, 33, 3, 4), (33, 17, 3, 3), 2, 1),
    TransposedCase("empty-batch", (0, 3, 4, 5), (3, 2, 3, 3), 2),
    TransposedCase("1d", (2, 3, 7), (3, 4, 4), 3, 1, 2),
    TransposedCase("3d", (1, 3, 3, 2, 4), (3, 2, 2, 3, 2), (2, 1, 3), (1, 1, 0), (0, 0, 2)),
    TransposedCase("narrower-than-stride", (1, 1, 1, 3), (1, 1, 2, 5), 3, (0, 5)),
    TransposedCase("rows-no-tap-reaches", (1, 16, 8, 4, 5), (16, 1, 1, 1, 3), 3, 4, (0, 0, 1), 16),
    TransposedCase(
        "rows-no-tap-reaches-in-pairs",
        (1, 16, 9, 2, 5),
        (16, 1, 3, 1, 2),
        (2, 4, 2),
        (5, 3, 1),
        (1, 2, 0),
        16,
    ),
    TransposedCase("3d-groups", (1, 4, 2, 3, 3), (4, 1, 3, 2, 3), 2, 1, 1, 4),
]

POOL = [
    PoolCase("one", (1, 1, 1, 1), 1),
    PoolCase("2x2", (2, 3, 4, 6), 2),
    PoolCase("2x3-unequal", (2, 3, 7, 11), (2, 3), (3, 1)),
    PoolCase("overlapping", (1, 5, 8, 9), 3, 1, 1),
    PoolCase("resnet", (1, 17, 9, 11), 3, 2, 1),
    PoolCase("stride-above-kernel", (1, 2, 9, 10), 2, (3, 4)),
    PoolCase("stride-above-input", (1, 2, 3, 4), 2, 7),
    PoolCase("padding-half", (1, 3, 5, 6), (4, 3), 2, (2, 1)),
    PoolCase("kernel-fills-input", (2, 3, 5, 4), (5, 4)),
    PoolCase("kernel-fills-padded", (1, 2, 3, 2), (5, 4), 1, (2, 2)),
    PoolCase("ceil", (1, 3, 6, 7), 3, 2, 0, ceil_mode=True),
    PoolCase("ceil-padding", (2, 3, 6, 9), (3, 2), (2, 3), 1, ceil_mode=True),
    PoolCase("ceil-drops-last", (1, 2, 4, 3), 2, (4, 3), 1, ceil_mode=True),
    PoolCase("ceil-beyond-padding", (1, 2, 5, 6), 3, (4, 5), 1, ceil_mode=True),
    PoolCase("dilation", (1, 3, 9, 11), 3, 2, 1, (2, 3)),
    PoolCase("dilation-ceil", (2, 2, 9, 10), (2, 3), 3, 1, (4, 2), ceil_mode=True),
    PoolCase("size-one-axes", (1, 3, 1, 9), (1, 3), (1, 2), (0, 1)),
    PoolCase("channels-33", (1, 33, 5, 6), 3, 2, 1),
    PoolCase("channels-16", (2, 16, 4, 17), 2, 1),
    PoolCase("empty-batch", (0, 3, 4, 5), 2),
    PoolCase("1d", (2, 3, 13), 3, 2, 1),
    PoolCase("1d-ceil-dilation", (1, 5, 14), 4, 3, 2, 2, ceil_mode=True),
    PoolCase("3d", (1, 3, 4, 5, 6), 2),
    PoolCase("3d-unequal", (2, 2, 5, 4, 7), (3, 2, 1), (1, 2, 3), (1, 1, 0), ceil_mode=True),
    PoolCase("3d-dilation", (1, 2, 5, 6, 7), 2, 1, 1, (2, 3, 1)),
]

# (x, output size) of adaptive pooling: smaller, equal, larger and uneven.
ADAPTIVE = [
    ((2, 3, 7, 10), (3, 4)),
    ((1, 2, 5, 6), (5, 6)),
    ((1, 2, 3, 4), (7, 5)),
    ((1, 5, 13, 9), (1, 1)),
    ((1, 17, 8, 8), (3, 2)),
    ((0, 3, 4, 5), (2, 2)),
    ((2, 3, 11), (4,)),
    ((1, 2, 5, 6, 7), (2, 3, 4)),
]


def case_id(case: Any) -> str:
    return case.name if hasattr(case, "name") else str(case)
