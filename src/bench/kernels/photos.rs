//! Photographs of half as many pixels again as are made of them a side, with everything drawn for all, as no training does.

use super::Bench;
use crate::error::Result;
use crate::ops::augment_mix::Mixing;
use crate::ops::augment_photos::{AugmentPhotos, DRAW_WORDS, INDEX_WORDS, PhotoConfig, PhotoDraw};
use crate::tensor::DType;

impl Bench<'_> {
    pub(super) fn photographs(&mut self) -> Result<()> {
        let (batch, size, mixing) = (self.sizes.batch, self.sizes.extent, Mixing::GLMC);
        let images = mixing.image_sets() * batch;
        let (height, width) = (size * 8 / 7, size * 3 / 2);
        let bytes = height * width * 3;
        let pixels: Vec<u8> = (0..images * bytes).map(|i| (i * 31 % 256) as u8).collect();
        let index: Vec<[u32; INDEX_WORDS]> = (0..images)
            .map(|image| {
                let offset = (image * bytes) as u64;
                [offset as u32, (offset >> 32) as u32, height as u32, width as u32]
            })
            .collect();
        let draw = PhotoDraw {
            brightness: 1.1,
            contrast: 0.9,
            saturation: 1.2,
            flags: PhotoDraw::FLIP,
            sigma: 1.0,
            ..PhotoDraw::of_box([0, 0, height as u32, width as u32], size)
        };
        let draws = vec![draw; images];
        let tensors = AugmentPhotos {
            pixels: self.place(&[pixels.len()], DType::U8, &pixels)?,
            index: self.place(&[images, INDEX_WORDS], DType::I32, bytemuck::cast_slice(&index))?,
            draws: self.place(&[images, DRAW_WORDS], DType::I32, bytemuck::cast_slice(&draws))?,
            originals: self.indices(batch, images)?,
            partners: self.indices(batch, images)?,
            scalars: self.step()?,
            out: self.float(&[images, size, size, 3])?,
            scratch: Some(self.alloc(&[self.backend.augment_photos_scratch(images, size)], DType::U8)?),
        };
        let config = PhotoConfig { size, stride: images, mean: [0.5; 3], std: [0.25; 3] };
        self.of(0.0, &[tensors.pixels, tensors.out]);
        self.run("augment_photos", |b| b.augment_photos(mixing, &config, &tensors))?;
        self.free();
        Ok(())
    }
}
