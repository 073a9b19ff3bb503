//! NumPy's legacy random generator: MT19937 (Matsumoto and Nishimura, 1998) with the seeding, the bounded integers and the
//! shuffle of `numpy.random.RandomState`, bit for bit.
//!
//! The published long-tailed CIFAR splits are defined by that generator (`np.random.seed(0)` and `np.random.shuffle`), so
//! the only way to have the same images as other papers is to have the same numbers.

/// Words of state.
const N: usize = 624;
/// Distance of the twist's middle word.
const M: usize = 397;

/// A 32-bit Mersenne Twister in the state that `numpy.random.RandomState(seed)` starts from.
#[derive(Clone)]
pub struct Mt19937 {
    key: [u32; N],
    position: usize,
}

impl Mt19937 {
    /// The state after `np.random.seed(seed)` with an integer, which NumPy limits to 32 bits (`mt19937_seed`).
    pub fn new(seed: u32) -> Self {
        let mut key = [0; N];
        let mut word = seed;
        for (i, slot) in key.iter_mut().enumerate() {
            *slot = word;
            word = (word ^ (word >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32 + 1);
        }
        Self { key, position: N }
    }

    /// The state after `np.random.seed([..])` with an array of 32-bit words (`init_by_array`); an independent stream for each
    /// array. An empty array counts as `[0]`.
    pub fn from_key(words: &[u32]) -> Self {
        let words = if words.is_empty() { &[0][..] } else { words };
        let mut key = Self::new(19_650_218).key;
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(words.len()) {
            let mixed = (key[i - 1] ^ (key[i - 1] >> 30)).wrapping_mul(1_664_525);
            key[i] = (key[i] ^ mixed).wrapping_add(words[j]).wrapping_add(j as u32);
            i += 1;
            j += 1;
            if i >= N {
                key[0] = key[N - 1];
                i = 1;
            }
            if j >= words.len() {
                j = 0;
            }
        }
        for _ in 0..N - 1 {
            let mixed = (key[i - 1] ^ (key[i - 1] >> 30)).wrapping_mul(1_566_083_941);
            key[i] = (key[i] ^ mixed).wrapping_sub(i as u32);
            i += 1;
            if i >= N {
                key[0] = key[N - 1];
                i = 1;
            }
        }
        key[0] = 0x8000_0000;
        Self { key, position: N }
    }

    fn twist(&mut self) {
        for i in 0..N {
            let word = (self.key[i] & 0x8000_0000) | (self.key[(i + 1) % N] & 0x7fff_ffff);
            let odd = if word & 1 == 1 { 0x9908_b0df } else { 0 };
            self.key[i] = self.key[(i + M) % N] ^ (word >> 1) ^ odd;
        }
        self.position = 0;
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.position == N {
            self.twist();
        }
        let mut word = self.key[self.position];
        self.position += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A uniform number in `[0, 1)` with 53 random bits (`RandomState.random_sample`).
    pub fn next_f64(&mut self) -> f64 {
        let high = f64::from(self.next_u32() >> 5);
        let low = f64::from(self.next_u32() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// A uniform integer in `0..=max` by masked rejection (`random_interval` of NumPy's legacy distributions).
    pub fn interval(&mut self, max: u64) -> u64 {
        if max == 0 {
            return 0;
        }
        let mask = u64::MAX >> max.leading_zeros();
        loop {
            let word = if max <= u64::from(u32::MAX) {
                u64::from(self.next_u32())
            } else {
                // NumPy's `mt19937_next64` draws the high word first.
                let high = u64::from(self.next_u32());
                (high << 32) | u64::from(self.next_u32())
            };
            if word & mask <= max {
                return word & mask;
            }
        }
    }

    /// Shuffles in place, as `np.random.shuffle` does a one-dimensional array.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.interval(i as u64) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // rs = np.random.RandomState(0); rs.randint(0, 2**32, 4, dtype=np.uint32); the C++ standard fixes the 10,000th word of seed 5489.
    #[test]
    fn known_words() {
        let mut rng = Mt19937::new(0);
        assert_eq!([(); 4].map(|()| rng.next_u32()), [2357136044, 2546248239, 3071714933, 3626093760]);
        let mut rng = Mt19937::new(5489);
        assert_eq!((0..10_000).map(|_| rng.next_u32()).last(), Some(4_123_659_995));
        // init_by_array of the original mt19937ar.c, key {0x123, 0x234, 0x345, 0x456}: mt19937ar.out begins so.
        let mut rng = Mt19937::from_key(&[0x123, 0x234, 0x345, 0x456]);
        assert_eq!([(); 3].map(|()| rng.next_u32()), [1067595299, 955945823, 477289528]);
    }

    // np.random.RandomState(0).permutation(10), .random_sample()
    #[test]
    fn known_permutation() {
        let mut order: [usize; 10] = std::array::from_fn(|i| i);
        Mt19937::new(0).shuffle(&mut order);
        assert_eq!(order, [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
        let mut rng = Mt19937::new(0);
        assert_eq!(rng.next_f64(), 0.548_813_503_927_324_8);
    }
}
