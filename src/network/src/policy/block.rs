//! Arithmetic on address ranges.

use ipnet::IpNet;

/// Returns ranges that together have the addresses of `range` without those of `except`.
pub(super) fn without(range: IpNet, except: &[IpNet]) -> Vec<IpNet> {
    let mut parts = vec![range.trunc()];
    for hole in except {
        parts = parts
            .into_iter()
            .flat_map(|part| cut(part, hole.trunc()))
            .collect();
    }
    parts
}

/// Returns what is left of a range without a hole: at most one range per bit of the address.
fn cut(range: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&range) {
        return Vec::new();
    }
    if !range.contains(&hole) {
        return vec![range];
    }
    let mut left = Vec::new();
    let mut inner = range;
    while inner.prefix_len() < hole.prefix_len() {
        // The hole is in one half; the other half is left.
        let Ok(halves) = inner.subnets(inner.prefix_len() + 1) else {
            break;
        };
        for half in halves {
            if half.contains(&hole) {
                inner = half;
            } else {
                left.push(half);
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn holes_split_a_range() {
        for (range, except, left) in [
            ("10.0.0.0/30", vec![], vec!["10.0.0.0/30"]),
            (
                "10.0.0.0/30",
                vec!["10.0.0.2/32"],
                vec!["10.0.0.0/31", "10.0.0.3/32"],
            ),
            (
                "10.0.0.0/30",
                vec!["10.0.0.2/32", "10.0.0.3/32"],
                vec!["10.0.0.0/31"],
            ),
            ("10.0.0.0/30", vec!["10.0.0.0/30"], vec![]),
            ("10.0.0.0/30", vec!["0.0.0.0/0"], vec![]),
            ("10.0.0.0/30", vec!["10.0.1.0/30"], vec!["10.0.0.0/30"]),
            ("10.0.0.9/24", vec![], vec!["10.0.0.0/24"]),
            ("fd00::/126", vec!["fd00::2/127"], vec!["fd00::/127"]),
            // The API refuses exceptions of the other family.
            ("fd00::/126", vec!["10.0.0.0/8"], vec!["fd00::/126"]),
        ] {
            let found = without(range.parse().unwrap(), &nets(&except));
            assert_eq!(IpNet::aggregate(&found), nets(&left), "{range} {except:?}");
        }
        assert_eq!(
            without("0.0.0.0/0".parse().unwrap(), &nets(&["1.2.3.4/32"])).len(),
            32
        );
    }

    fn net() -> impl Strategy<Value = IpNet> {
        // Few addresses, so that ranges overlap.
        (0..64u32, 24..=32u8).prop_map(|(low, length)| {
            IpNet::new_assert(Ipv4Addr::from(0x0a00_0000 + low).into(), length)
        })
    }

    proptest! {
        #[test]
        fn the_rest_has_the_addresses_outside_of_the_holes(
            range in net(),
            except in prop::collection::vec(net(), 0..4),
        ) {
            let left = without(range, &except);
            for low in 0..256u32 {
                let ip = std::net::IpAddr::from(Ipv4Addr::from(0x0a00_0000 + low));
                let expected = range.contains(&ip) && !except.iter().any(|net| net.contains(&ip));
                let count = left.iter().filter(|net| net.contains(&ip)).count();
                prop_assert_eq!(count, usize::from(expected), "{}", ip);
            }
        }
    }
}
