//! Tests against the running kernel, compared with the output of `nft` if it is installed.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::netlink::new_netns;
use crate::testing::{listed, root};

fn everything() -> Table {
    let r = Reg::word;
    let mut t = Table::new(Family::Ip, "rkube-test");
    t.set(
        "clients",
        Set::dynamic(&[Field::Ipv4], Duration::from_secs(60)),
    );
    t.set(
        "nets",
        Set::of_ranges(&[
            "10.0.0.0/8".parse().unwrap(),
            "255.255.255.0/24".parse().unwrap(),
        ]),
    );
    let a = t.chain(
        "endpoint-a",
        vec![
            Rule::new().expr(Expr::source_ip(r(0))).expr(Expr::Update {
                set: "clients".into(),
                reg: r(0),
                timeout: None,
            }),
            Rule::new()
                .protocol(6)
                .expr(Expr::Immediate(r(0), Data::ip([10, 244, 0, 5])))
                .expr(Expr::Immediate(r(1), Data::port(8080)))
                .expr(Expr::Nat {
                    kind: NatKind::Destination,
                    address: r(0),
                    port: Some(r(1)),
                })
                .comment("ns/name:http"),
        ],
    );
    let picks = Set::verdicts(
        &[Field::Number],
        [
            (0.into(), Verdict::Goto(a.clone())),
            (1.into(), Verdict::Accept),
        ],
    );
    let b = t.chain(
        "service-b",
        vec![
            Rule::new()
                .expr(Expr::source_ip(r(0)))
                .expr(Expr::Lookup {
                    set: SetRef::Named("clients".into()),
                    reg: r(0),
                    invert: false,
                })
                .goto(&a),
            Rule::new()
                .expr(Expr::Random {
                    reg: r(0),
                    modulus: 2,
                })
                .expr(Expr::LookupVerdict {
                    map: SetRef::Anonymous(Box::new(picks)),
                    reg: r(0),
                }),
        ],
    );
    t.set(
        "services",
        Set::verdicts(
            &[Field::Ipv4, Field::Protocol, Field::Port],
            [(
                Key::new(&[Data::ip([10, 96, 0, 1]), Data::byte(6), Data::port(443)]),
                Verdict::Goto(b),
            )],
        ),
    );
    t.set(
        "ports",
        Set::map(
            &[Field::Protocol, Field::Port],
            &[Field::Ipv4, Field::Port],
            [(
                Key::new(&[Data::byte(6), Data::port(80)]),
                Key::new(&[Data::ip([10, 244, 0, 7]), Data::port(8080)]),
            )],
        ),
    );
    add_nat_chains(&mut t);
    add_filter_chains(&mut t);
    t
}

fn add_nat_chains(t: &mut Table) {
    let r = Reg::word;
    t.base_chain(
        "prerouting",
        Hook::new(ChainKind::Nat, HookKind::Prerouting, priority::DNAT),
        vec![
            Rule::new()
                .expr(Expr::destination_ip(r(0)))
                .expr(Expr::Meta(Meta::L4Proto, r(1)))
                .expr(Expr::destination_port(r(2)))
                .expr(Expr::LookupVerdict {
                    map: SetRef::Named("services".into()),
                    reg: r(0),
                }),
            Rule::new()
                .destination_local()
                .expr(Expr::Meta(Meta::L4Proto, r(0)))
                .expr(Expr::destination_port(r(1)))
                .expr(Expr::LookupValue {
                    map: SetRef::Named("ports".into()),
                    reg: r(0),
                    to: r(0),
                })
                .expr(Expr::Nat {
                    kind: NatKind::Destination,
                    address: r(0),
                    port: Some(r(1)),
                }),
            Rule::new()
                .protocol(17)
                .destination_port(5353)
                .expr(Expr::Immediate(r(0), Data::port(53)))
                .expr(Expr::Redirect(Some(r(0)))),
        ],
    );
    t.base_chain(
        "postrouting",
        Hook::new(ChainKind::Nat, HookKind::Postrouting, priority::SNAT),
        vec![
            Rule::new()
                .expr(Expr::Meta(Meta::Mark, r(0)))
                .expr(Expr::Bitwise {
                    reg: r(0),
                    mask: Data::host(0x4000),
                    xor: Data::host(0),
                })
                .expr(Expr::eq(r(0), Data::host(0)))
                .ret(),
            Rule::new()
                .source(
                    CmpOp::Eq,
                    "10.244.0.0/16".parse::<ipnet::Ipv4Net>().unwrap(),
                )
                .expr(Expr::Masquerade { fully_random: true }),
        ],
    );
}

fn add_filter_chains(t: &mut Table) {
    let r = Reg::word;
    t.base_chain(
        "forward",
        Hook::new(ChainKind::Filter, HookKind::Forward, priority::FILTER),
        vec![
            Rule::new()
                .ct_state(ct_state::ESTABLISHED | ct_state::RELATED)
                .accept(),
            Rule::new()
                .expr(Expr::Ct(Ct::ClientIp, r(0)))
                .expr(Expr::eq(r(0), Data::ip([10, 244, 0, 1])))
                .expr(Expr::Ct(Ct::ServerIp, r(0)))
                .expr(Expr::eq(r(0), Data::ip([10, 244, 0, 2])))
                .expr(Expr::Ct(Ct::Protocol, r(0)))
                .expr(Expr::eq(r(0), Data::byte(6)))
                .expr(Expr::Ct(Ct::ServerPort, r(0)))
                .expr(Expr::eq(r(0), Data::port(80)))
                .accept(),
            Rule::new()
                .ct_status(ct_status::DNAT)
                .expr(Expr::Counter)
                .accept(),
            Rule::new()
                .in_link(CmpOp::Ne, "eth0")
                .out_link(CmpOp::Eq, "rk0")
                .drop(),
            Rule::new().protocol(6).expr(Expr::Reject(Reject::TcpReset)),
            Rule::new()
                .expr(Expr::Limit {
                    per_second: 10,
                    burst: 5,
                })
                .expr(Expr::Reject(Reject::PortUnreachable)),
            Rule::new()
                .expr(Expr::source_ip(r(0)))
                .expr(Expr::Lookup {
                    set: SetRef::Named("nets".into()),
                    reg: r(0),
                    invert: true,
                })
                .drop(),
        ],
    );
    t.base_chain(
        "raw",
        Hook::new(ChainKind::Filter, HookKind::Prerouting, priority::RAW),
        vec![
            Rule::new().source_local().expr(Expr::NoTrack),
            Rule::new().expr(Expr::Incremental {
                reg: r(0),
                modulus: 3,
            }),
        ],
    );
}

#[test]
fn the_kernel_takes_every_expression() {
    if !root() {
        return;
    }
    let netns = new_netns().unwrap();
    let nft = Nftables::open_in(netns.as_fd()).unwrap();
    let table = everything();
    assert!(nft.apply(None, &table).unwrap());
    assert!(!nft.apply(Some(&table), &table).unwrap());
    // Replacing works whether the table exists or not.
    assert!(nft.apply(None, &table).unwrap());
    assert_eq!(nft.tables(Family::Ip).unwrap(), ["rkube-test"]);
    if let Some(text) = listed(&netns) {
        for line in [
            "elements = { 10.96.0.1 . tcp . 443 : goto service-b }",
            "elements = { tcp . 80 : 10.244.0.7 . 8080 }",
            "elements = { 10.0.0.0/8, 255.255.255.0/24 }",
            "update @clients { ip saddr }",
            "meta l4proto tcp dnat to 10.244.0.5:8080 comment \"ns/name:http\"",
            "ip saddr @clients goto endpoint-a",
            "numgen random mod 2 vmap { 0 : goto endpoint-a, 1 : accept }",
            "type nat hook prerouting priority dstnat; policy accept;",
            "ip daddr . meta l4proto . th dport vmap @services",
            "fib daddr type local dnat ip to meta l4proto . th dport map @ports",
            "udp dport 5353 redirect to :53",
            "ct state established,related accept",
            "ct original ip saddr 10.244.0.1 ct reply ip saddr 10.244.0.2 ct protocol tcp ct reply proto-src 80 accept",
            "ct status dnat counter packets 0 bytes 0 accept",
            "iifname != \"eth0\" oifname \"rk0\" drop",
            "reject with tcp reset",
            "limit rate 10/second reject",
            "ip saddr != @nets drop",
            "meta mark & 0x00004000 == 0x00000000 return",
            "ip saddr 10.244.0.0/16 masquerade fully-random",
            "fib saddr type local notrack",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }
    assert!(nft.delete_table(Family::Ip, "rkube-test").unwrap());
    assert!(!nft.delete_table(Family::Ip, "rkube-test").unwrap());
    assert!(nft.tables(Family::Ip).unwrap().is_empty());
}

#[test]
fn differences_lead_from_any_table_to_any_other() {
    if !root() {
        return;
    }
    let netns = new_netns().unwrap();
    let nft = Nftables::open_in(netns.as_fd()).unwrap();
    let full = everything();
    let empty = Table::new(Family::Ip, "rkube-test");

    let mut changed = everything();
    let service = Arc::make_mut(changed.chains.get_mut("service-b").unwrap());
    service.rules.pop();
    changed.chain("endpoint-c", vec![Rule::new().accept()]);
    let key = Key::new(&[Data::ip([10, 96, 0, 1]), Data::byte(6), Data::port(443)]);
    let other = Key::new(&[Data::ip([10, 96, 0, 2]), Data::byte(17), Data::port(53)]);
    let services = &mut Arc::make_mut(changed.sets.get_mut("services").unwrap()).elements;
    services.insert(key, Value::Verdict(Verdict::Goto("endpoint-c".into())));
    services.insert(other, Value::Verdict(Verdict::Drop));

    let mut reshaped = everything();
    reshaped.set(
        "clients",
        Set::dynamic(&[Field::Ipv4], Duration::from_secs(61)),
    );

    let states = [&empty, &full, &changed, &reshaped];
    for from in states {
        for to in states {
            nft.apply(None, from).unwrap();
            nft.apply(Some(from), to).unwrap();
            let stepwise = listed(&netns);
            nft.apply(None, to).unwrap();
            let whole = listed(&netns);
            // Chains and sets are listed in the order of their creation.
            let sorted = |text: Option<String>| {
                let mut blocks: Vec<String> = text
                    .unwrap_or_default()
                    .split("\n\n")
                    .map(|block| {
                        block
                            .trim_matches(['\n', '}', ' '])
                            .trim_start_matches("table ip rkube-test {")
                            .trim()
                            .to_owned()
                    })
                    .collect();
                blocks.sort();
                blocks
            };
            assert_eq!(sorted(stepwise), sorted(whole));
        }
    }
}

#[test]
fn a_refused_batch_changes_nothing_and_names_the_culprit() {
    if !root() {
        return;
    }
    let netns = new_netns().unwrap();
    let nft = Nftables::open_in(netns.as_fd()).unwrap();
    let mut table = Table::new(Family::Ip, "broken");
    table.chain("one", vec![Rule::new().jump(&"nowhere".into())]);
    let error = nft.apply(None, &table).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "cannot change packet filter table broken: add rule to chain one: No such file"
        ),
        "{error}"
    );
    assert!(nft.tables(Family::Ip).unwrap().is_empty());
    table.chain("nowhere", vec![]);
    nft.apply(None, &table).unwrap();
}

#[test]
fn messages_are_encoded_byte_for_byte() {
    // As `nft` 1.0.6 sends `add rule ip t c ip daddr 10.0.0.1 accept`, except for register numbers.
    // `nft` uses register 1 (16 bytes) where this crate uses register 8 (4 bytes).
    let mut table = Table::new(Family::Ip, "t");
    table.chain("c", vec![]);
    let mut batch = super::encode::Batch::new(&table, 7);
    let rule = Rule::new()
        .destination(
            CmpOp::Eq,
            ipnet::Ipv4Net::from(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        )
        .accept();
    batch.new_rule("c", &rule);
    let (writer, subjects) = batch.finish();
    assert_eq!(subjects, ["begin", "add rule to chain c", "commit"]);
    let attr = |kind: u16, value: &[u8]| {
        let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let nest = |kind: u16, parts: &[Vec<u8>]| attr(kind | 0x8000, &parts.concat());
    let be = |kind, value: u32| attr(kind, &value.to_be_bytes());
    let expr = |name: &str, data: &[Vec<u8>]| {
        nest(1, &[attr(1, format!("{name}\0").as_bytes()), nest(2, data)])
    };
    let exprs = [
        expr("payload", &[be(1, 8), be(2, 1), be(3, 16), be(4, 4)]),
        expr(
            "cmp",
            &[be(1, 8), be(2, 0), nest(3, &[attr(1, &[10, 0, 0, 1])])],
        ),
        expr("immediate", &[be(1, 0), nest(2, &[nest(2, &[be(1, 1)])])]),
    ];
    let body = [attr(1, b"t\0"), attr(2, b"c\0"), nest(4, &exprs)].concat();
    let message = |kind: u16, flags: u16, seq: u32, generic: [u8; 4], body: &[u8]| {
        let mut bytes = (body.len() as u32 + 20).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(seq.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(generic);
        bytes.extend(body);
        bytes
    };
    let expected = [
        message(0x10, 1, 7, [0, 0, 0, 10], &[]),
        // NLM_F_CREATE, NLM_F_APPEND, NLM_F_REQUEST, and NLM_F_ACK on the last message.
        message(0xa06, 0xc05, 8, [2, 0, 0, 0], &body),
        message(0x11, 1, 9, [0, 0, 0, 10], &[]),
    ]
    .concat();
    assert_eq!(writer.as_bytes(), expected);
}
