//! The lines of a file.

/// Finds the line numbers of positions.
pub struct Lines {
    /// The positions of all line feeds, in ascending order.
    ends: Vec<usize>,
}

impl Lines {
    pub(super) fn new(text: &str) -> Self {
        Self { ends: text.match_indices('\n').map(|(position, _)| position).collect() }
    }

    /// The line number of a position in bytes, counted from 1.
    #[must_use]
    pub fn line_at(&self, position: usize) -> u32 {
        let before = self.ends.partition_point(|end| *end < position);
        u32::try_from(before).map_or(u32::MAX, |before| before.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lines_from_one() {
        let lines = Lines::new("a\n\nb\n");
        assert_eq!([0, 1, 2, 3, 4, 5].map(|position| lines.line_at(position)), [1, 1, 2, 3, 3, 4]);
        assert_eq!(Lines::new("").line_at(0), 1);
    }
}
