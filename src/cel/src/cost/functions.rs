//! Cost estimates of specific functions.

use super::{CallCost, Coster, NOTHING, ONE, Operand, Range, pattern_cost};
use crate::ast::{Expr, Kind, Literal, op};
use crate::types::Type;

impl Coster<'_> {
    fn known_size(&self, operand: &Operand<'_>) -> Range {
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
                let to = int_or(to.e, self.known_size(target).max);
                allocating(1.0, Range::fixed(to.wrapping_sub(from)))
            }
            ("lists_range", _, [n]) => allocating(1.0, Range::fixed(int_or(n.e, u64::MAX))),
            ("list_reverse", Some(target), []) => allocating(1.0, self.known_size(target)),
            ("list_flatten", Some(target), []) => allocating(1.0, self.known_size(target)),
            ("list_flatten_int", Some(target), [depth]) => {
                allocating(int_or(depth.e, u64::MAX) as f64, self.known_size(target))
            }
            ("list_distinct", Some(target), []) => {
                let size = self.known_size(target);
                allocating(2.0, size.times(size))
            }
            ("list_sets_contains_list" | "list_sets_intersects_list", _, [a, b]) => {
                Some(CallCost {
                    cost: self.known_size(a).times(self.known_size(b)).add(ONE),
                    size: None,
                })
            }
            ("list_sets_equivalent_list", _, [a, b]) => Some(CallCost {
                cost: self
                    .known_size(a)
                    .times(self.known_size(b))
                    .share(2.0)
                    .add(ONE),
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
                let size = self.known_size(sorted);
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
        if let Some(units) = fixed_units(function, overload) {
            return plain(Range::fixed(units));
        }
        self.of_texts(function, target, args)
            .or_else(|| self.of_lists(function, target))
            .or_else(|| self.of_parsers(function, overload, args))
            .or_else(|| of_equality(function, args))
    }

    /// Returns the cost and result size of functions that read or build strings.
    fn of_texts(
        &self,
        function: &str,
        target: Option<&Operand<'_>>,
        args: &[Operand<'_>],
    ) -> Option<CallCost> {
        let sized = |cost, size| {
            Some(CallCost {
                cost,
                size: Some(size),
            })
        };
        match (function, target, args) {
            ("url" | "jsonpatch.escapeKey", _, [arg]) => {
                let size = self.known_size(arg);
                sized(size.share(0.1), size)
            }
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(target), _) => {
                let size = self.known_size(target);
                sized(size.share(0.1), size)
            }
            ("replace", Some(target), [from, to, ..]) => {
                let size = self.known_size(target);
                let result = replaced(size, self.known_size(from), self.known_size(to));
                sized(size.share(0.2), result)
            }
            ("split", Some(target), _) => {
                let size = self.known_size(target);
                let max = args.get(1).map_or(size.max, |n| match &n.e.kind {
                    Kind::Literal(Literal::Int(n)) => *n as u64,
                    _ => size.max,
                });
                sized(size.share(0.2), Range { min: 0, max })
            }
            ("join", Some(target), _) => {
                let count = self.known_size(target);
                let mut size = NOTHING;
                if !target.ty.params().is_empty() {
                    size = count.times(self.item(target).unwrap_or(Range::UNKNOWN));
                }
                if let Some(between) = args.first() {
                    size = size.add(self.known_size(between).times(Range {
                        min: count.min.saturating_sub(1),
                        max: count.max.saturating_sub(1),
                    }));
                }
                sized(size.share(0.1), size)
            }
            ("find" | "findAll", Some(target), [pattern, ..]) => {
                let size = self.known_size(target);
                let result = Range {
                    min: 0,
                    max: size.max,
                };
                sized(pattern_cost(size, self.known_size(pattern)), result)
            }
            _ => None,
        }
    }

    /// Returns the cost of functions that visit every item of a list.
    fn of_lists(&self, function: &str, target: Option<&Operand<'_>>) -> Option<CallCost> {
        let visits = matches!(
            function,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf"
        );
        let target = target.filter(|_| visits)?;
        let size = self.known_size(target);
        let Some(element) = target.ty.params().first().copied() else {
            return plain(size.share(0.1));
        };
        let mut each = ONE;
        if matches!(element, Type::String | Type::Bytes) {
            let of = self.item(target).unwrap_or(Range::UNKNOWN);
            each = each.add(of.share(0.1));
        }
        plain(size.times(each))
    }

    /// Returns the cost of functions that parse a string.
    fn of_parsers(&self, function: &str, overload: &str, args: &[Operand<'_>]) -> Option<CallCost> {
        match (function, args) {
            ("fieldSelector" | "labelSelector", [selector]) => {
                let length = self.known_size(selector);
                plain(
                    Range::fixed(10)
                        .add(length.share(0.1))
                        .add(length.share(0.5).share(50.0)),
                )
            }
            (
                "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver"
                | "isSemver",
                [arg, ..],
            ) => plain(self.known_size(arg).share(0.1)),
            ("ip.isCanonical", [arg]) => plain(self.known_size(arg).share(0.2)),
            ("containsIP" | "containsCIDR", [arg]) => {
                let bytes = Range { min: 4, max: 16 };
                let mut own = bytes.add(bytes).share(0.1);
                if function == "containsCIDR" {
                    own = own.add(bytes.share(0.1)).add(ONE);
                }
                if overload.ends_with("_string") {
                    own = own.add(self.known_size(arg).share(0.1));
                }
                plain(own)
            }
            ("validate", [arg]) => plain(self.known_size(arg).share(0.1).share(128.0 * 0.25)),
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

/// Returns a cost without a known size of the result.
fn plain(cost: Range) -> Option<CallCost> {
    Some(CallCost { cost, size: None })
}

/// Returns the cost of functions for which it does not depend on their arguments.
fn fixed_units(function: &str, overload: &str) -> Option<u64> {
    const CHEAP: &[&str] = &[
        "serviceAccount",
        "path",
        "group",
        "resource",
        "subresource",
        "namespace",
        "name",
        "allowed",
        "reason",
        "error",
        "errored",
        "masked",
        "prefixLength",
        "family",
        "isUnspecified",
        "isLoopback",
        "isLinkLocalMulticast",
        "isLinkLocalUnicast",
        "isGlobalUnicast",
        "format.named",
        "sign",
        "asInteger",
        "isInteger",
        "asApproximateFloat",
        "isGreaterThan",
        "isLessThan",
        "compareTo",
        "add",
        "sub",
        "major",
        "minor",
        "patch",
        "getScheme",
        "getHostname",
        "getHost",
        "getPort",
        "getEscapedPath",
        "getQuery",
    ];
    if function == "check" {
        return Some(350_000);
    }
    (CHEAP.contains(&function) || overload == "cidr_ip").then_some(1)
}

/// Returns the cost of comparing two values of one of Kubernetes' types.
fn of_equality(function: &str, args: &[Operand<'_>]) -> Option<CallCost> {
    let [a, b] = args else { return None };
    if function != op::EQUALS || a.ty != b.ty {
        return None;
    }
    match a.ty.runtime_name() {
        "net.IP"
        | "net.CIDR"
        | "kubernetes.Quantity"
        | "kubernetes.Semver"
        | "kubernetes.authorization.Authorizer"
        | "kubernetes.authorization.PathCheck"
        | "kubernetes.authorization.GroupCheck"
        | "kubernetes.authorization.ResourceCheck"
        | "kubernetes.authorization.Decision" => plain(ONE),
        "kubernetes.NamedFormat" => plain(Range { min: 1, max: 64 }.share(0.1)),
        "kubernetes.URL" => {
            let max = b.size.map_or(1, |size| size.max);
            plain(Range { min: 1, max }.share(0.1))
        }
        _ => None,
    }
}
