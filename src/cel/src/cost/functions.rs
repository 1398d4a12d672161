//! Cost estimates of specific functions.

use super::{CallCost, Coster, NOTHING, ONE, Operand, Range, pattern_cost};
use crate::ast::{Expr, Kind, Literal, op};
use crate::types::Type;

impl Coster<'_> {
    fn known(&self, operand: &Operand<'_>) -> Range {
        operand
            .size
            .or_else(|| self.at(&operand.path))
            .unwrap_or(Range::UNKNOWN)
    }

    fn at(&self, path: &[String]) -> Option<Range> {
        if path.is_empty() {
            return None;
        }
        let max = self.sizes.max(path)?;
        Some(Range { min: 0, max })
    }

    /// Returns the cost of a function of lists, `None` for others.
    pub(super) fn list_function(
        &self,
        overload: &str,
        target: Option<&Operand<'_>>,
        args: &[Operand<'_>],
    ) -> Option<CallCost> {
        let allocating = |factor: f64, size: Range| {
            Some(CallCost {
                cost: size.share(factor).add(Range::fixed(11)),
                size: Some(size),
            })
        };
        match (overload, target, args) {
            ("list_slice", Some(target), [from, to]) => {
                let from = int_or(from.e, 0);
                let to = int_or(to.e, self.known(target).max);
                allocating(1.0, Range::fixed(to.wrapping_sub(from)))
            }
            ("lists_range", _, [n]) => allocating(1.0, Range::fixed(int_or(n.e, u64::MAX))),
            ("list_reverse", Some(target), []) => allocating(1.0, self.known(target)),
            ("list_flatten", Some(target), []) => allocating(1.0, self.known(target)),
            ("list_flatten_int", Some(target), [depth]) => {
                allocating(int_or(depth.e, u64::MAX) as f64, self.known(target))
            }
            ("list_distinct", Some(target), []) => {
                let size = self.known(target);
                allocating(2.0, size.times(size))
            }
            ("list_sets_contains_list" | "list_sets_intersects_list", _, [a, b]) => {
                Some(CallCost {
                    cost: self.known(a).times(self.known(b)).add(ONE),
                    size: None,
                })
            }
            ("list_sets_equivalent_list", _, [a, b]) => Some(CallCost {
                cost: self.known(a).times(self.known(b)).share(2.0).add(ONE),
                size: None,
            }),
            (id, Some(target), keys) => {
                let (of, sorted) = match (id.strip_suffix("_sort"), keys) {
                    (Some(id), []) => (id, target),
                    _ => match (id.strip_suffix("_sortByAssociatedKeys"), keys) {
                        (Some(id), [keys]) => (id, keys),
                        _ => return None,
                    },
                };
                let factor = match of.strip_prefix("list_")? {
                    "string" | "bytes" => 2.1,
                    _ => 2.0,
                };
                let size = self.known(sorted);
                allocating(factor, size.times(size))
            }
            _ => None,
        }
    }

    /// Returns the cost of a function of the Kubernetes libraries, `None` for others.
    pub(super) fn kubernetes(
        &self,
        function: &str,
        overload: &str,
        target: Option<&Operand<'_>>,
        args: &[Operand<'_>],
    ) -> Option<CallCost> {
        let fixed = |n| {
            Some(CallCost {
                cost: Range::fixed(n),
                size: None,
            })
        };
        let cost = |cost| Some(CallCost { cost, size: None });
        match (function, target, args) {
            ("check", ..) => fixed(350_000),
            (
                "serviceAccount"
                | "path"
                | "group"
                | "resource"
                | "subresource"
                | "namespace"
                | "name"
                | "allowed"
                | "reason"
                | "error"
                | "errored"
                | "masked"
                | "prefixLength"
                | "family"
                | "isUnspecified"
                | "isLoopback"
                | "isLinkLocalMulticast"
                | "isLinkLocalUnicast"
                | "isGlobalUnicast"
                | "format.named"
                | "sign"
                | "asInteger"
                | "isInteger"
                | "asApproximateFloat"
                | "isGreaterThan"
                | "isLessThan"
                | "compareTo"
                | "add"
                | "sub"
                | "major"
                | "minor"
                | "patch"
                | "getScheme"
                | "getHostname"
                | "getHost"
                | "getPort"
                | "getEscapedPath"
                | "getQuery",
                ..,
            ) => fixed(1),
            ("fieldSelector" | "labelSelector", _, [selector]) => {
                let length = self.known(selector);
                cost(
                    Range::fixed(10)
                        .add(length.share(0.1))
                        .add(length.share(0.5).share(50.0)),
                )
            }
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(target), _) => {
                let size = self.known(target);
                let Some(element) = target.ty.params().first().copied() else {
                    return cost(size.share(0.1));
                };
                let mut each = ONE;
                if matches!(element, Type::String | Type::Bytes) {
                    let of = self.item(target).unwrap_or(Range::UNKNOWN);
                    each = each.add(of.share(0.1));
                }
                cost(size.times(each))
            }
            ("url" | "jsonpatch.escapeKey", _, [arg]) => {
                let size = self.known(arg);
                Some(CallCost {
                    cost: size.share(0.1),
                    size: Some(size),
                })
            }
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(target), _) => {
                let size = self.known(target);
                Some(CallCost {
                    cost: size.share(0.1),
                    size: Some(size),
                })
            }
            ("replace", Some(target), [from, to, ..]) => {
                let size = self.known(target);
                Some(CallCost {
                    cost: size.share(0.2),
                    size: Some(replaced(size, self.known(from), self.known(to))),
                })
            }
            ("split", Some(target), _) => {
                let size = self.known(target);
                let max = args.get(1).map_or(size.max, |n| match &n.e.kind {
                    Kind::Literal(Literal::Int(n)) => *n as u64,
                    _ => size.max,
                });
                Some(CallCost {
                    cost: size.share(0.2),
                    size: Some(Range { min: 0, max }),
                })
            }
            ("join", Some(target), _) => {
                let count = self.known(target);
                let mut size = NOTHING;
                if !target.ty.params().is_empty() {
                    size = count.times(self.item(target).unwrap_or(Range::UNKNOWN));
                }
                if let Some(between) = args.first() {
                    size = size.add(self.known(between).times(Range {
                        min: count.min.saturating_sub(1),
                        max: count.max.saturating_sub(1),
                    }));
                }
                Some(CallCost {
                    cost: size.share(0.1),
                    size: Some(size),
                })
            }
            ("find" | "findAll", Some(target), [pattern, ..]) => {
                let size = self.known(target);
                Some(CallCost {
                    cost: pattern_cost(size, self.known(pattern)),
                    size: Some(Range {
                        min: 0,
                        max: size.max,
                    }),
                })
            }
            ("ip", ..) if overload == "cidr_ip" => fixed(1),
            (
                "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver"
                | "isSemver",
                _,
                [arg, ..],
            ) => cost(self.known(arg).share(0.1)),
            ("ip.isCanonical", _, [arg]) => cost(self.known(arg).share(0.2)),
            ("containsIP" | "containsCIDR", _, [arg]) => {
                let bytes = Range { min: 4, max: 16 };
                let mut own = bytes.add(bytes).share(0.1);
                if function == "containsCIDR" {
                    own = own.add(bytes.share(0.1)).add(ONE);
                }
                if overload.ends_with("_string") {
                    own = own.add(self.known(arg).share(0.1));
                }
                cost(own)
            }
            ("validate", _, [arg]) => cost(self.known(arg).share(0.1).share(128.0 * 0.25)),
            (op::EQUALS, _, [a, b]) if a.ty == b.ty => match a.ty.runtime_name() {
                "net.IP"
                | "net.CIDR"
                | "kubernetes.Quantity"
                | "kubernetes.Semver"
                | "kubernetes.authorization.Authorizer"
                | "kubernetes.authorization.PathCheck"
                | "kubernetes.authorization.GroupCheck"
                | "kubernetes.authorization.ResourceCheck"
                | "kubernetes.authorization.Decision" => fixed(1),
                "kubernetes.NamedFormat" => cost(Range { min: 1, max: 64 }.share(0.1)),
                "kubernetes.URL" => {
                    let max = b.size.map_or(1, |size| size.max);
                    cost(Range { min: 1, max }.share(0.1))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the size of a list's elements, `None` if unknown.
    fn item(&self, list: &Operand<'_>) -> Option<Range> {
        if list.path.is_empty() {
            return None;
        }
        let mut path = list.path.clone();
        path.push("@items".into());
        self.at(&path)
    }
}

fn int_or(e: &Expr, default: u64) -> u64 {
    match &e.kind {
        Kind::Literal(Literal::Int(i)) => (*i).max(0) as u64,
        _ => default,
    }
}

/// Returns the size of a string after replacement of `from` by `to`.
fn replaced(size: Range, from: Range, to: Range) -> Range {
    let (mut count, mut kept) = (NOTHING, NOTHING);
    if from.min == 0 {
        // The empty string is found around every character.
        count.max = size.max.saturating_add(1);
        kept.max = size.max;
    } else if to.max <= from.min {
        kept.max = size.max;
    } else {
        count.max = (size.max as f64 / from.min as f64).ceil() as u64;
    }
    if from.max == 0 {
        count.min = size.min.saturating_add(1);
        kept.min = size.min;
    } else if from.max <= to.min {
        kept.min = size.min;
    } else {
        count.min = (size.min as f64 / from.max as f64).ceil() as u64;
    }
    count.times(to).add(kept)
}
