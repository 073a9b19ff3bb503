//! Convolutions that get every tiling of the presets' networks.

use crate::ops::conv2d::Geometry;

const fn convolution(
    [views, images, height, width]: [usize; 4],
    [channels, filters]: [usize; 2],
    kernel: usize,
) -> Geometry {
    let (batch, padding) = (views * images, kernel / 2);
    Geometry { batch, height, width, channels, filters, kernel, stride: 1, padding, views, groups: 1 }
}

const fn grouped(groups: usize, g: Geometry) -> Geometry {
    Geometry { groups, ..g }
}

/// Convolutions which together get every tiling that those of the presets' networks get (tests/launched/conv2d.rs looks).
pub const CONVOLUTIONS: [Geometry; 13] = [
    // Enough pixels for the tiles of large layers.
    convolution([2, 4, 48, 40], [16, 128], 1),
    convolution([1, 8, 48, 40], [128, 64], 1),
    convolution([2, 4, 48, 40], [64, 32], 1),
    convolution([1, 8, 48, 40], [32, 8], 1),
    // And too few.
    convolution([2, 3, 6, 6], [8, 16], 3),
    convolution([1, 2, 5, 7], [16, 24], 3),
    convolution([2, 1, 6, 6], [32, 48], 3),
    convolution([2, 2, 6, 6], [64, 64], 3),
    convolution([1, 1, 4, 4], [136, 72], 3),
    // In groups of 4 to 32 channels.
    grouped(4, convolution([2, 1, 6, 5], [16, 16], 3)),
    grouped(2, convolution([2, 2, 7, 5], [16, 16], 3)),
    grouped(2, convolution([1, 1, 6, 6], [32, 32], 3)),
    grouped(2, convolution([1, 2, 4, 4], [64, 64], 3)),
];
