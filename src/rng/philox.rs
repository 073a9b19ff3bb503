//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! A draw is a pure function of (seed, epoch, step, purpose, index): nothing is carried from one to the next, so that
//! every device draws the same numbers in any order and a resumed run continues bit for bit. `kernels/philox.cuh` is the
//! same function on the device.

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// What a draw is for; part of the counter, so that purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// The order of the originals in an epoch.
    Shuffle = 1,
    /// The partners of a step.
    Partner = 2,
    /// Lambda of a step.
    Lambda = 3,
    /// The CutMix box of a step.
    Box = 4,
    /// Whether a step mixes.
    Mix = 5,
    /// Crop and flip of view `v` are drawn under `Augment + v`, v in 0..4 (o1, o2, r1, r2).
    Augment = 8,
    /// The initial parameters.
    Initialise = 16,
    /// What a view shows of a photograph is drawn under `Photo + v`, v as for [`Purpose::Augment`].
    Photo = 24,
}

/// The block cipher: ten rounds on one counter under one key.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let a = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Four words for draw number `index` of `purpose` in a step of an epoch.
pub fn draw(seed: u64, epoch: u32, step: u32, purpose: u32, index: u32) -> [u32; 4] {
    philox4x32([index, step, epoch, purpose], [seed as u32, (seed >> 32) as u32])
}

/// A word as an integer in `0..bound`, by multiply-high (bias below bound / 2^32).
pub fn below(word: u32, bound: u32) -> u32 {
    ((u64::from(word) * u64::from(bound)) >> 32) as u32
}

/// Two words as a double in [0, 1) with 53 random bits.
pub fn unit(high: u32, low: u32) -> f64 {
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
    bits as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A sequential reader of the draws of one (epoch, step, purpose), for distributions that want a stream of words.
pub struct Stream {
    seed: u64,
    epoch: u32,
    step: u32,
    purpose: u32,
    index: u32,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream's start.
    pub fn new(seed: u64, epoch: u32, step: u32, purpose: Purpose) -> Stream {
        Stream { seed, epoch, step, purpose: purpose as u32, index: 0, words: [0; 4], used: 4 }
    }

    /// The next word.
    pub fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.words = draw(self.seed, self.epoch, self.step, self.purpose, self.index);
            self.index += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// The next double in [0, 1).
    pub fn unit(&mut self) -> f64 {
        let high = self.word();
        unit(high, self.word())
    }
}

impl rand::rand_core::TryRng for Stream {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.word())
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let high = u64::from(self.word());
        Ok(high << 32 | u64::from(self.word()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in bytes.chunks_mut(4) {
            let word = self.word().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the Random123 library (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn below_covers_its_range() {
        assert_eq!(below(0, 9), 0);
        assert_eq!(below(u32::MAX, 9), 8);
        assert!(unit(u32::MAX, u32::MAX) < 1.0);
    }
}
