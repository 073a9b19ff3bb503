//! What lies where in one allocation that many tensors share, and when: for a device that watches each of them.

/// A tensor's place in an allocation.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is, for messages.
    pub name: String,
    /// Where it starts, a multiple of 256.
    pub offset: usize,
    /// Its length; what its padding adds is not in it.
    pub bytes: usize,
    /// The times at which it is alive: from the first to the second, both included.
    pub alive: [usize; 2],
}

/// The parts of one allocation. Those that are alive at the same time do not overlap.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    pub parts: Vec<Part>,
}

impl Part {
    fn holds(&self, offset: usize) -> bool {
        (self.offset..self.offset + self.bytes).contains(&offset)
    }
}

impl Outline {
    /// The parts that may be touched at `time`.
    pub fn alive(&self, time: usize) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| (part.alive[0]..=part.alive[1]).contains(&time))
    }

    /// Where a byte of the allocation is at `time`, in words: in which part, or how far from which.
    pub fn describe(&self, offset: usize, time: usize) -> String {
        let named = |part: &Part| format!("`{}` ({} bytes)", part.name, part.bytes);
        if let Some(part) = self.alive(time).find(|part| part.holds(offset)) {
            return format!("{} bytes into {}", offset - part.offset, named(part));
        }
        let distance = |part: &Part| match offset.checked_sub(part.offset + part.bytes) {
            Some(past) => past,
            None => part.offset - offset,
        };
        let Some(nearest) = self.alive(time).min_by_key(|part| distance(part)) else {
            return "where no tensor is alive".to_string();
        };
        let side = if offset < nearest.offset { "before the start of" } else { "past the end of" };
        let place = format!("{} bytes {side} {}", distance(nearest), named(nearest));
        // Memory is used again: what lay here, or will, says more than a distance of many bytes.
        match self.parts.iter().find(|part| part.holds(offset)) {
            Some(other) => format!("{place}, where {} lies at other times", named(other)),
            None => place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_by_the_nearest_part_that_is_alive() {
        let part = |name: &str, offset, bytes, alive| Part { name: name.into(), offset, bytes, alive };
        let outline = Outline {
            parts: vec![part("x", 0, 1000, [0, 1]), part("y", 2048, 100, [1, 2]), part("z", 4096, 512, [2, 2])],
        };
        for (offset, time, wanted) in [
            (8, 0, "8 bytes into `x` (1000 bytes)"),
            (1000, 0, "0 bytes past the end of `x` (1000 bytes)"),
            (2000, 1, "48 bytes before the start of `y` (100 bytes)"),
            (2147, 1, "99 bytes into `y` (100 bytes)"),
            (2148, 1, "0 bytes past the end of `y` (100 bytes)"),
            (4100, 1, "1952 bytes past the end of `y` (100 bytes), where `z` (512 bytes) lies at other times"),
            (8, 3, "where no tensor is alive"),
        ] {
            assert_eq!(outline.describe(offset, time), wanted, "{offset} at {time}");
        }
    }
}
