//! The sizes of a subset's images, and what follows from them for its arrays.

/// Heights and widths in the order of the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sizes {
    /// All images have one size.
    Same {
        /// How many.
        images: usize,
        /// Rows of each.
        height: usize,
        /// Columns of each.
        width: usize,
    },
    /// Height and width of each.
    Mixed(Vec<(u32, u32)>),
}

impl Sizes {
    /// The sizes of images of these heights and widths.
    pub fn of(sizes: Vec<(u32, u32)>) -> Sizes {
        match sizes.first() {
            Some(&(height, width)) if sizes.iter().all(|&size| size == (height, width)) => {
                Sizes::Same { images: sizes.len(), height: height as usize, width: width as usize }
            }
            _ => Sizes::Mixed(sizes),
        }
    }

    /// The shape of `pixels.npy`.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Sizes::Same { images, height, width } => vec![*images, *height, *width, 3],
            Sizes::Mixed(_) => vec![self.bytes() as usize],
        }
    }

    /// Bytes of pixels.
    pub fn bytes(&self) -> u64 {
        match self {
            Sizes::Same { images, height, width } => [*images, *height, *width, 3].iter().map(|&n| n as u64).product(),
            Sizes::Mixed(sizes) => sizes.iter().map(|&(height, width)| 3 * u64::from(height) * u64::from(width)).sum(),
        }
    }

    /// The rows of `index.npy` as bytes, where there is one: offset, height and width of each image.
    pub(super) fn index(&self) -> Option<Vec<u8>> {
        let Sizes::Mixed(sizes) = self else { return None };
        let (mut offset, mut rows) = (0, Vec::with_capacity(24 * sizes.len()));
        for &(height, width) in sizes {
            let [height, width] = [i64::from(height), i64::from(width)];
            [offset, height, width].iter().for_each(|n| rows.extend(n.to_le_bytes()));
            offset += 3 * height * width;
        }
        Some(rows)
    }
}

/// Parts of these lengths, one after another.
pub(super) fn parts(mut bytes: &mut [u8], lengths: impl Iterator<Item = usize>) -> Vec<&mut [u8]> {
    let part = |length| {
        let (part, rest) = std::mem::take(&mut bytes).split_at_mut(length);
        bytes = rest;
        part
    };
    lengths.map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_one_size_need_no_index() {
        let same = Sizes::of(vec![(4, 5); 3]);
        assert_eq!(same, Sizes::Same { images: 3, height: 4, width: 5 });
        assert_eq!((same.shape(), same.bytes(), same.index()), (vec![3, 4, 5, 3], 180, None));
        let mixed = Sizes::of(vec![(4, 5), (5, 4), (1, 2)]);
        assert_eq!((mixed.shape(), mixed.bytes()), (vec![126], 126));
        let rows: Vec<i64> =
            mixed.index().unwrap().chunks(8).map(|n| i64::from_le_bytes(n.try_into().unwrap())).collect();
        assert_eq!(rows, [0, 4, 5, 60, 5, 4, 120, 1, 2]);
    }
}
