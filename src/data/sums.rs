//! Mean and standard deviation of pixels, exact and the same whatever the order.

/// Sums over the pixels of a channel, exact in integers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    sum: [u64; 3],
    square: [u64; 3],
}

impl Sums {
    pub(super) fn of(pixels: &[u8]) -> Sums {
        let mut sums = Sums::default();
        // A row's worth at a time in 32 bits, which vectorises.
        for chunk in pixels.chunks(3 * 4096) {
            let (mut sum, mut square) = ([0u32; 3], [0u32; 3]);
            for p in chunk.chunks_exact(3) {
                for c in 0..3 {
                    sum[c] += u32::from(p[c]);
                    square[c] += u32::from(p[c]) * u32::from(p[c]);
                }
            }
            for c in 0..3 {
                sums.sum[c] += u64::from(sum[c]);
                sums.square[c] += u64::from(square[c]);
            }
        }
        sums
    }

    pub(super) fn add(&mut self, other: &Sums) {
        for c in 0..3 {
            self.sum[c] += other.sum[c];
            self.square[c] += other.square[c];
        }
    }

    /// Mean and (population) standard deviation of `n` pixels scaled to 0..1.
    pub(super) fn mean_std(&self, n: u64) -> ([f64; 3], [f64; 3]) {
        let n = n as f64;
        let mean = self.sum.map(|s| s as f64 / n / 255.0);
        let std = std::array::from_fn(|c| {
            let mean_of_squares = self.square[c] as f64 / n / (255.0 * 255.0);
            // A set of one colour must still be divisible.
            (mean_of_squares - mean[c] * mean[c]).max(0.0).sqrt().max(1.0 / 255.0)
        });
        (mean, std)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_mean_and_std() {
        let pixels: Vec<u8> = (0..10_000).flat_map(|i| [255, if i % 2 == 0 { 0 } else { 255 }, 51]).collect();
        let (mean, std) = Sums::of(&pixels).mean_std(10_000);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(close(mean[0], 1.0) && close(mean[1], 0.5) && close(mean[2], 0.2), "{mean:?}");
        assert!(close(std[1], 0.5) && close(std[0], 1.0 / 255.0) && close(std[2], 1.0 / 255.0), "{std:?}");
    }
}
