//! Distribution of seats among priority levels according to their demand.

/// The demand and the bounds of one level, in seats.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// Minimum allocation.
    pub low: f64,
    /// Maximum allocation.
    pub high: f64,
    /// Demand to be met if possible.
    pub target: f64,
    /// The level's nominal share.
    pub nominal: f64,
}

/// Distributes `total` seats: each level gets the same fraction of its target, clamped to its
/// bounds.
///
/// If the lower bounds alone use up `total`, each level gets its nominal seats instead.
pub fn share(total: f64, items: &[Item]) -> Vec<u32> {
    let lowest: f64 = items.iter().map(|i| i.low).sum();
    if lowest >= total {
        return items.iter().map(|i| i.nominal as u32).collect();
    }
    let at = |part: f64| -> f64 {
        items
            .iter()
            .map(|i| (i.target * part).clamp(i.low, i.high))
            .sum()
    };
    // The sum grows monotonically with the fraction: find the fraction by bisection.
    let (mut low, mut high) = (0.0f64, 1.0f64);
    while at(high) < total && high < 1e6 {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if at(middle) < total {
            low = middle;
        } else {
            high = middle;
        }
    }
    let wanted: f64 = items.iter().map(|i| i.target).sum();
    if wanted <= 0.0 {
        return items.iter().map(|i| i.nominal as u32).collect();
    }
    items
        .iter()
        .map(|i| (i.target * low).clamp(i.low, i.high).round() as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(low: f64, high: f64, target: f64, nominal: f64) -> Item {
        Item {
            low,
            high,
            target,
            nominal,
        }
    }

    #[test]
    fn idle_levels_lend() {
        let shares = share(
            100.0,
            &[
                item(10.0, 150.0, 10.0, 50.0),
                item(50.0, 150.0, 200.0, 50.0),
            ],
        );
        assert_eq!(shares[0], 10);
        assert_eq!(shares[1], 90);
    }

    #[test]
    fn too_many_bounds_leave_all_as_it_is() {
        assert_eq!(
            share(
                10.0,
                &[item(8.0, 20.0, 8.0, 6.0), item(8.0, 20.0, 9.0, 4.0)]
            ),
            [6, 4]
        );
    }

    proptest! {
        #[test]
        fn shares_stay_within_bounds(items in prop::collection::vec((0.0f64..50.0, 0.0f64..200.0, 0.0f64..500.0, 0.0f64..100.0), 1..8), total in 1.0f64..1000.0) {
            let items: Vec<Item> = items
                .into_iter()
                .map(|(low, more, target, nominal)| item(low, low + more, target, nominal))
                .collect();
            let shares = share(total, &items);
            let lowest: f64 = items.iter().map(|i| i.low).sum();
            if lowest < total && items.iter().any(|i| i.target > 0.0) {
                for (share, item) in shares.iter().zip(&items) {
                    prop_assert!(f64::from(*share) >= item.low.floor());
                    prop_assert!(f64::from(*share) <= item.high.ceil());
                }
                let sum: u32 = shares.iter().sum();
                prop_assert!(f64::from(sum) <= total + items.len() as f64);
            }
        }
    }
}
