//! Brightness, contrast, saturation, hue and grey of planes, (3, pixels), of values in 0..1: torchvision's functions on
//! floats.

use super::super::cpu::vectorize;
use super::super::real::Real;
use super::COLOURS;
use crate::ops::augment_photos::PhotoDraw;

/// Shares of red, green and blue in grey.
const GREY: [f64; 3] = [0.2989, 0.587, 0.114];

/// Numbers that sums are kept in, so that additions need not wait for each other.
const LANES: usize = 8;

#[inline(always)]
fn grey<T: Real>([r, g, b]: [T; 3]) -> T {
    T::from_f64(GREY[0]) * r + T::from_f64(GREY[1]) * g + T::from_f64(GREY[2]) * b
}

#[inline(always)]
fn clamp<T: Real>(v: T) -> T {
    let v = if v < T::ZERO { T::ZERO } else { v };
    if v > T::ONE { T::ONE } else { v }
}

/// `factor * value + (1 - factor) * other`, in 0..1.
#[inline(always)]
fn blend<T: Real>(factor: T, value: T, other: T) -> T {
    clamp(factor * value + (T::ONE - factor) * other)
}

/// The hue of a pixel shifted by `sixths` of a turn, 0..6. As HSV to RGB is `V - V S clamp(min(k, 4 - k))` with k = n + H mod 6
/// for n = 5, 3, 1 (H in sixths) and V S is the range of the colours, only H is ever divided.
#[inline(always)]
fn shift_hue<T: Real>([r, g, b]: [T; 3], sixths: T) -> [T; 3] {
    let real = T::from_f64;
    let max = if r > g { r } else { g };
    let max = if b > max { b } else { max };
    let min = if r < g { r } else { g };
    let min = if b < min { b } else { min };
    let range = max - min;
    let inverse = if range > T::ZERO { T::ONE / range } else { T::ZERO };
    let of_green = real(2.0) + (b - r) * inverse;
    let of_blue = real(4.0) + (r - g) * inverse;
    let hue = if g == max { of_green } else { of_blue };
    let hue = if r == max { (g - b) * inverse } else { hue };
    let hue = hue + sixths;
    let hue = if hue < T::ZERO { hue + real(6.0) } else { hue };
    let hue = if hue >= real(6.0) { hue - real(6.0) } else { hue };
    [5.0, 3.0, 1.0].map(|n| {
        let k = real(n) + hue;
        let k = if k >= real(6.0) { k - real(6.0) } else { k };
        let other = real(4.0) - k;
        max - range * clamp(if k < other { k } else { other })
    })
}

/// Changes every pixel.
#[inline(always)]
fn each<T: Real>(planes: &mut [T], change: impl Fn([T; 3]) -> [T; 3]) {
    let (red, rest) = planes.split_at_mut(planes.len() / COLOURS);
    let (green, blue) = rest.split_at_mut(red.len());
    vectorize(
        #[inline(always)]
        || {
            for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
                [*r, *g, *b] = change([*r, *g, *b]);
            }
        },
    );
}

/// The mean of all pixels' grey, summed in double precision and always in the same order.
fn mean_grey<T: Real>(planes: &[T]) -> T {
    let (red, rest) = planes.split_at(planes.len() / COLOURS);
    let (green, blue) = rest.split_at(red.len());
    let mut sums = [0.0; LANES];
    vectorize(
        #[inline(always)]
        || {
            for ((r, g), b) in red.chunks(LANES).zip(green.chunks(LANES)).zip(blue.chunks(LANES)) {
                for (((sum, &r), &g), &b) in sums.iter_mut().zip(r).zip(g).zip(b) {
                    *sum += grey([r, g, b]).to_f64();
                }
            }
        },
    );
    T::from_f64(sums.iter().sum::<f64>() / red.len() as f64)
}

/// The colour steps of a draw.
pub(super) fn recolour<T: Real>(draw: &PhotoDraw, planes: &mut [T]) {
    let real = |v: f32| T::from_f64(f64::from(v));
    for step in 0..4 {
        match draw.order >> (2 * step) & 3 {
            0 if draw.brightness != 1.0 => {
                let factor = real(draw.brightness);
                each(
                    planes,
                    #[inline(always)]
                    |pixel| pixel.map(|v| clamp(factor * v)),
                );
            }
            1 if draw.contrast != 1.0 => {
                let (factor, mean) = (real(draw.contrast), mean_grey(planes));
                each(
                    planes,
                    #[inline(always)]
                    |pixel| pixel.map(|v| blend(factor, v, mean)),
                );
            }
            2 if draw.saturation != 1.0 => {
                let factor = real(draw.saturation);
                each(
                    planes,
                    #[inline(always)]
                    |pixel| {
                        let grey = grey(pixel);
                        pixel.map(|v| blend(factor, v, grey))
                    },
                );
            }
            3 if draw.hue != 0.0 => {
                let sixths = T::from_f64((6.0 * f64::from(draw.hue)).rem_euclid(6.0));
                each(
                    planes,
                    #[inline(always)]
                    |pixel| shift_hue(pixel, sixths),
                );
            }
            _ => {}
        }
    }
    if draw.flags & PhotoDraw::GREY != 0 {
        each(
            planes,
            #[inline(always)]
            |pixel| [grey(pixel); 3],
        );
    }
}
