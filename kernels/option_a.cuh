// Option A of the CIFAR ResNets (He et al. 2016, section 4.2): a block's shortcut from `source` (batch, height, width,
// channels) to an output of half the rows and columns and more channels takes even rows and columns, and puts
// `pad = (output channels - channels) / 2` zero channels on either side.
#pragma once

#include "storage.cuh"

struct OptionA {
    u32 height, width, channels;  // of the source
    u32 out_height, out_width;
    u32 pad;
};

// Where the source pixel of an output pixel lies.
struct SourcePixel {
    u32 image, row, column;
};

// `pixel` counts the output's pixels from the start of the batch.
DEVICE SourcePixel source_pixel(const OptionA& a, u32 pixel) {
    u32 line = pixel / a.out_width;
    SourcePixel p;
    p.column = 2 * (pixel - line * a.out_width);
    p.image = line / a.out_height;
    p.row = 2 * (line - p.image * a.out_height);
    return p;
}

DEVICE u64 source_offset(const OptionA& a, u32 image, u32 row, u32 column) {
    return ((static_cast<u64>(image) * a.height + row) * a.width + column) * a.channels;
}
