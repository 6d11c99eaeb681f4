//! Runs: `code, length, code, length …` for codes that repeat, in batches and in the segments of the store.

/// Appends one code.
pub fn push(runs: &mut Vec<u32>, code: u32) {
    if let [.., last, length] = runs.as_mut_slice()
        && *last == code
    {
        *length += 1;
    } else {
        runs.extend([code, 1]);
    }
}

/// The codes one by one. A half pair at the end counts as the end.
#[derive(Debug)]
pub struct Runs<'a> {
    pairs: std::slice::Chunks<'a, u32>,
    code: u32,
    left: u32,
}

impl<'a> Runs<'a> {
    /// From the first.
    pub fn new(runs: &'a [u32]) -> Self {
        Self { pairs: runs.chunks(2), code: 0, left: 0 }
    }

    /// Was that all?
    pub fn is_empty(&self) -> bool {
        self.left == 0 && self.pairs.len() == 0
    }
}

impl Iterator for Runs<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        while self.left == 0 {
            let [code, length] = self.pairs.next()? else { return None };
            (self.code, self.left) = (*code, *length);
        }
        self.left -= 1;
        Some(self.code)
    }
}
