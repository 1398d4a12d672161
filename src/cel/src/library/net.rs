//! Functions of IP addresses and CIDRs.

use std::net::{IpAddr, Ipv6Addr};

use rkube_go_regexp::Pattern;

use super::convert::text;
use super::netip::parse_error;
use super::signature::{Run, no_overload};
use crate::ctx::Ctx;
use crate::number::go_quote;
use crate::value::{EvalError, Outcome, Value};

/// Functions by name.
pub(crate) const FUNCTIONS: &[(&str, Run)] = &[
    ("ip", to_ip),
    ("isIP", is_ip),
    ("ip.isCanonical", ip_is_canonical),
    ("family", family),
    ("isUnspecified", is_unspecified),
    ("isLoopback", is_loopback),
    ("isLinkLocalMulticast", is_link_local_multicast),
    ("isLinkLocalUnicast", is_link_local_unicast),
    ("isGlobalUnicast", is_global_unicast),
    ("cidr", to_cidr),
    ("isCIDR", is_cidr),
    ("prefixLength", prefix_length),
    ("masked", masked),
    ("containsIP", contains_ip),
    ("containsCIDR", contains_cidr),
];

fn to_ip<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Cidr(ip, _)] => Ok(Value::Ip(*ip)),
        [s] => parse_ip(text(s)?).map(Value::Ip).map_err(EvalError::new),
        _ => no_overload(),
    }
}

fn is_ip<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => Ok(Value::Bool(parse_ip(text(s)?).is_ok())),
        _ => no_overload(),
    }
}

fn ip_is_canonical<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    match args {
        [s] => {
            let s = text(s)?;
            let ip = parse_ip(s).map_err(EvalError::new)?;
            Ok(Value::Bool(ip.to_string() == s))
        }
        _ => no_overload(),
    }
}

fn family<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Ip(ip)] => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        _ => no_overload(),
    }
}

fn is_unspecified<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    test(args, IpAddr::is_unspecified)
}

fn is_loopback<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    test(args, IpAddr::is_loopback)
}

fn is_link_local_multicast<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    test(args, link_local_multicast)
}

fn is_link_local_unicast<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    test(args, link_local_unicast)
}

fn is_global_unicast<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    test(args, |ip| {
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        !(broadcast
            || ip.is_unspecified()
            || ip.is_loopback()
            || ip.is_multicast()
            || link_local_unicast(ip))
    })
}

fn to_cidr<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => parse_cidr(text(s)?)
            .map(|(ip, bits)| Value::Cidr(ip, bits))
            .map_err(address_error),
        _ => no_overload(),
    }
}

fn is_cidr<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => Ok(Value::Bool(parse_cidr(text(s)?).is_ok())),
        _ => no_overload(),
    }
}

fn prefix_length<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Cidr(_, bits)] => Ok(Value::Int(i64::from(*bits))),
        _ => no_overload(),
    }
}

fn masked<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Cidr(ip, bits)] => Ok(Value::Cidr(mask(*ip, *bits), *bits)),
        _ => no_overload(),
    }
}

fn contains_ip<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [Value::Cidr(net, bits), other] = args else {
        return no_overload();
    };
    let ip = match other {
        Value::Ip(ip) => *ip,
        other => parse_ip(text(other)?).map_err(EvalError::new)?,
    };
    Ok(Value::Bool(contains(*net, *bits, ip)))
}

fn contains_cidr<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [Value::Cidr(net, bits), other] = args else {
        return no_overload();
    };
    let (inner, its) = match other {
        Value::Cidr(inner, its) => (*inner, *its),
        other => parse_cidr(text(other)?).map_err(address_error)?,
    };
    Ok(Value::Bool(bits <= &its && contains(*net, *bits, inner)))
}

fn address_error(problem: String) -> EvalError {
    EvalError::new(format!(
        "network address parse error during conversion from string: {problem}"
    ))
}

fn test<'a>(args: &[Value<'a>], test: impl Fn(&IpAddr) -> bool) -> Result<Value<'a>, EvalError> {
    match args {
        [Value::Ip(ip)] => Ok(Value::Bool(test(ip))),
        _ => no_overload(),
    }
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_mapped(ip: &Ipv6Addr) -> bool {
    ip.to_ipv4_mapped().is_some()
}

fn parse_ip(raw: &str) -> Result<IpAddr, String> {
    if let Some((address, _)) = raw.split_once('%')
        && address.parse::<Ipv6Addr>().is_ok()
    {
        return Err(format!(
            "IP address {} with zone value is not allowed",
            go_quote(raw)
        ));
    }
    match raw.parse() {
        Ok(IpAddr::V6(v6)) if is_mapped(&v6) => Err(format!(
            "IPv4-mapped IPv6 address {} is not allowed",
            go_quote(raw)
        )),
        Ok(ip) => Ok(ip),
        Err(_) => Err(format!(
            "IP Address {} parse error during conversion from string: ParseAddr({}): {}",
            go_quote(raw),
            go_quote(raw),
            parse_error(raw)
        )),
    }
}

fn parse_cidr(raw: &str) -> Result<(IpAddr, u8), String> {
    let bad = |why: &str| {
        format!(
            "network address parse error during conversion from string: netip.ParsePrefix({}): \
             {why}",
            go_quote(raw)
        )
    };
    let Some((address, bits)) = raw.rsplit_once('/') else {
        return Err(bad("no '/'"));
    };
    if address.contains('%') {
        return Err(bad("IPv6 zones cannot be present in a prefix"));
    }
    let ip: IpAddr = address.parse().map_err(|_| {
        bad(&format!(
            "ParseAddr({}): {}",
            go_quote(address),
            parse_error(address)
        ))
    })?;
    let plain = !bits.is_empty()
        && bits.bytes().all(|b| b.is_ascii_digit())
        && (bits == "0" || !bits.starts_with('0'));
    let number: u8 = bits
        .parse()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| bad(&format!("bad bits after slash: {}", go_quote(bits))))?;
    if number > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(bad("prefix length out of range"));
    }
    match ip {
        IpAddr::V6(v6) if is_mapped(&v6) => Err(format!(
            "IPv4-mapped IPv6 address {} is not allowed",
            go_quote(raw)
        )),
        ip => Ok((ip, number)),
    }
}

fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

fn contains(net: IpAddr, bits: u8, ip: IpAddr) -> bool {
    net.is_ipv4() == ip.is_ipv4() && mask(net, bits) == mask(ip, bits)
}
