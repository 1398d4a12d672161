//! Sets of CPUs, as the kernel and the kubelet write them (`0-3,7`).

use std::collections::BTreeSet;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of CPU numbers, or of other small numbers such as those of cores.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuSet(BTreeSet<usize>);

/// Greatest number that a list may contain; a larger one is a mistake, not a machine.
const MAX: usize = 1 << 16;

impl CpuSet {
    /// Returns the empty set.
    pub const fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// Parses a list of numbers and ranges; an empty text is the empty set.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the first element that is neither a number nor a range.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut set = BTreeSet::new();
        if text.is_empty() {
            return Ok(Self(set));
        }
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| match text.parse::<usize>() {
                Ok(number) if number <= MAX => Ok(number),
                _ => Err(format!("'{text}' in '{part}' is not the number of a CPU")),
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("invalid range {part:?} ({first} > {last})"));
            }
            set.extend(first..=last);
        }
        Ok(Self(set))
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the set has a number.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.contains(&cpu)
    }

    /// Returns the numbers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// Returns the numbers of either set.
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// Returns the numbers of both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Returns the numbers that the other set does not have.
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// Returns whether the other set has all numbers.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}

impl<const N: usize> From<[usize; N]> for CpuSet {
    fn from(numbers: [usize; N]) -> Self {
        numbers.into_iter().collect()
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        let text = ranges.into_iter().map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        });
        f.write_str(&text.collect::<Vec<_>>().join(","))
    }
}

impl Serialize for CpuSet {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuSet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text)
            .map_err(|e| D::Error::custom(format!("could not parse cpuset {text:?}: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, numbers, written) in [
            ("", &[][..], ""),
            ("5", &[5], "5"),
            ("1,2,3,4,5", &[1, 2, 3, 4, 5], "1-5"),
            ("1-5", &[1, 2, 3, 4, 5], "1-5"),
            ("3-6,1-5", &[1, 2, 3, 4, 5, 6], "1-6"),
            ("0,2,4-5", &[0, 2, 4, 5], "0,2,4-5"),
        ] {
            let set = CpuSet::parse(text).unwrap();
            assert_eq!(set.iter().collect::<Vec<_>>(), numbers, "{text}");
            assert_eq!(set.to_string(), written);
        }
        for bad in [
            "nonnumeric",
            "non-numeric",
            "no,numbers",
            "0-a",
            "a-0",
            "0,a",
            "1-2,a,3-5",
            "0,",
            "0--3",
            "5-3",
            "1-99999999",
        ] {
            assert!(CpuSet::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sets_are_combined() {
        let (a, b) = (CpuSet::from([1, 2, 3]), CpuSet::from([3, 4]));
        assert_eq!(a.union(&b), CpuSet::from([1, 2, 3, 4]));
        assert_eq!(a.intersection(&b), CpuSet::from([3]));
        assert_eq!(a.difference(&b), CpuSet::from([1, 2]));
        assert!(CpuSet::from([3]).is_subset(&a) && !b.is_subset(&a));
        assert_eq!((a.len(), CpuSet::new().is_empty()), (3, true));
    }
}
