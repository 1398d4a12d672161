//! Protobuf bodies of any kind: what can be decoded can be encoded. Decoding and encoding
//! the result again yields the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rkube_api::protobuf;
use rkube_fuzz::{KINDS, Source};

fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(bytes);
}

fuzz_target!(|data: &[u8]| {
    // The unchanged input, to test the envelope.
    let _ = protobuf::decode(data);
    let mut source = Source::new(data);
    let (api_version, kind, _) = KINDS[source.below(KINDS.len())];
    let mut meta = Vec::new();
    field(1, api_version.as_bytes(), &mut meta);
    field(2, kind.as_bytes(), &mut meta);
    let mut body = b"k8s\0".to_vec();
    field(1, &meta, &mut body);
    field(2, source.rest(), &mut body);
    let Ok(read) = protobuf::decode(&body) else {
        return;
    };
    let written = protobuf::encode(&read).expect("what was read can be written");
    let again = protobuf::decode(&written.body).expect("what was written can be read");
    let twice = protobuf::encode(&again).expect("what was read can be written");
    assert_eq!(written.body, twice.body, "{read}\n{again}");
});
