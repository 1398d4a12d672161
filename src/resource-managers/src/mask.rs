//! Sets of NUMA nodes.

/// A set of NUMA nodes with numbers below 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumaMask(u64);

impl NumaMask {
    /// Returns the set of some nodes; those from 64 on, which no hint can name, are left out.
    pub fn of(nodes: impl IntoIterator<Item = usize>) -> Self {
        let bit = |node: usize| u32::try_from(node).ok().and_then(|n| 1u64.checked_shl(n));
        Self(
            nodes
                .into_iter()
                .filter_map(bit)
                .fold(0, |mask, b| mask | b),
        )
    }

    /// Returns the nodes in ascending order.
    pub fn nodes(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |n| self.0 & (1 << n) != 0)
    }

    /// Returns the number of nodes.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Returns whether the set has a node.
    pub fn has(self, node: usize) -> bool {
        node < 64 && self.0 & (1 << node) != 0
    }

    /// Returns the nodes of both sets.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns whether this set has fewer nodes, or as many with lower numbers.
    pub fn is_narrower(self, other: Self) -> bool {
        match self.count() == other.count() {
            true => self.is_lower(other),
            false => self.count() < other.count(),
        }
    }

    /// Returns whether this set, read as a binary number, is the smaller one.
    pub fn is_lower(self, other: Self) -> bool {
        self.0 < other.0
    }

    /// Returns all sets of the nodes but the empty one: by size, and by number within a size.
    pub fn all(nodes: &[usize]) -> Vec<Self> {
        fn grow(nodes: &[usize], chosen: &mut Vec<usize>, size: usize, out: &mut Vec<NumaMask>) {
            if chosen.len() == size {
                out.push(NumaMask::of(chosen.iter().copied()));
                return;
            }
            for (i, node) in nodes.iter().enumerate() {
                chosen.push(*node);
                grow(&nodes[i + 1..], chosen, size, out);
                chosen.pop();
            }
        }
        let mut out = Vec::new();
        for size in 1..=nodes.len() {
            grow(nodes, &mut Vec::new(), size, &mut out);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_ordered_by_size_first() {
        let mask = |nodes: &[usize]| NumaMask::of(nodes.iter().copied());
        assert!(mask(&[3]).is_narrower(mask(&[0, 1])));
        assert!(mask(&[0, 2]).is_narrower(mask(&[1, 2])));
        assert!(!mask(&[1]).is_narrower(mask(&[1])));
        assert_eq!(mask(&[0, 63, 64]).nodes().collect::<Vec<_>>(), [0, 63]);
        let all = NumaMask::all(&[0, 1, 3]);
        let sizes: Vec<usize> = all.iter().map(|m| m.count()).collect();
        assert_eq!(sizes, [1, 1, 1, 2, 2, 2, 3]);
        assert_eq!((all[2], all[4]), (mask(&[3]), mask(&[0, 3])));
        assert!(all[6].has(3) && !all[6].has(2));
        assert_eq!(all[6].and(all[0]), mask(&[0]));
    }
}
