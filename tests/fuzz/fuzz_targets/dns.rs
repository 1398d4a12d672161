//! The name server: any datagram, queries for names of the zone and beyond, and any Corefile.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rkube_fuzz::Source;
use rkube_network::dns::fuzzing::{corefile, query};

const LABELS: [&str; 20] = [
    "cluster",
    "local",
    "svc",
    "pod",
    "a",
    "c",
    "h",
    "x",
    "y",
    "z",
    "h1",
    "_p",
    "_tcp",
    "10-1-0-1",
    "dns-version",
    "ns",
    "dns",
    "arpa",
    "in-addr",
    "1",
];

fuzz_target!(|data: &[u8]| {
    query(data);
    if let Ok(text) = std::str::from_utf8(data) {
        corefile(text);
    }
    let mut source = Source::new(data);
    // Number, flags, and how many records of each section follow.
    let mut wire = vec![7, 7, *source.one_of(&[0, 1, 0x80, 0x28]), 0];
    wire.extend([
        0,
        *source.one_of(&[1, 1, 1, 2]),
        0,
        0,
        0,
        0,
        0,
        u8::from(source.chance(2)),
    ]);
    for _ in 0..source.below(9) {
        let label = source.one_of(&LABELS);
        wire.push(label.len() as u8);
        wire.extend(label.as_bytes());
    }
    if source.chance(2) {
        wire.extend(b"\x03svc\x07cluster\x05local");
    }
    match source.below(8) {
        // A pointer to somewhere, also to itself.
        0 => wire.extend([0xc0, source.below(64) as u8]),
        _ => wire.push(0),
    }
    wire.extend([0, *source.one_of(&[1, 28, 33, 16, 255, 5, 2, 6, 12, 41])]);
    wire.extend([0, *source.one_of(&[1, 1, 255, 3])]);
    // The record of EDNS with a size, a version and flags.
    wire.extend([
        0,
        0,
        41,
        source.below(256) as u8,
        0,
        0,
        source.below(2) as u8,
        0x80,
        0,
        0,
        0,
    ]);
    wire.extend(source.rest());
    query(&wire);
});
