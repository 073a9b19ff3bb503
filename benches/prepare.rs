//! Decoding and resizing, the work of `prepare images`, one image on one thread. `tools/bench_pillow.py` measures Pillow beside it.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use glmc_engine::data::decode::{Options, decode};
use glmc_engine::data::resize::Scaler;
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};

/// A JPEG of a picture with as much detail as a photograph has (about 2 bits per pixel).
fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let image = RgbImage::from_fn(width, height, |x, y| {
        let (fx, fy) = (x as f32 / width as f32, y as f32 / height as f32);
        let grain = ((x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(2_246_822_519)) >> 27) as f32;
        let wave = 60.0 * (20.0 * fx * fx + 9.0 * fy).sin();
        Rgb([120.0 + wave + grain, 40.0 + 160.0 * fy + grain, 200.0 - wave * fx].map(|v| v as u8))
    });
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 85).encode_image(&image).expect("a picture encodes");
    bytes
}

fn bench(c: &mut Criterion) {
    let (mut scaler, options) = (Scaler::default(), Options::default());
    for (width, height, size) in [(500, 375, 224), (32, 32, 32)] {
        let file = jpeg(width, height);
        let image = decode(&file, &options).expect("it was just encoded");
        let mut out = vec![0; size * size * 3];
        let mut group = c.benchmark_group(format!("{width}x{height}_to_{size}"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("decode", |b| b.iter(|| decode(black_box(&file), &options)));
        group.bench_function("resize", |b| b.iter(|| scaler.scale(black_box(&image), (size, size), &mut out)));
        group.bench_function("both", |b| {
            b.iter(|| {
                decode(black_box(&file), &options).and_then(|image| scaler.scale(&image, (size, size), &mut out))
            });
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
