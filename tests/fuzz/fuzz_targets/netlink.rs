//! Answers of the kernel over netlink: any datagram, and messages with attributes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rkube_fuzz::Source;
use rkube_nf::netlink::Writer;
use rkube_nf::netlink::fuzzing::datagram;

fuzz_target!(|data: &[u8]| {
    datagram(data);
    let mut source = Source::new(data);
    let mut writer = Writer::new();
    for _ in 0..source.below(4) {
        // Refusals, the end, and the kinds of interfaces, addresses and routes.
        let kind = *source.one_of(&[2, 3, 16, 20, 24, 0xa00]);
        let flags = *source.one_of(&[0, 0x200, 0x300, 2]);
        writer.message(kind, flags, 1, |w| {
            w.raw(source.take(*[4, 8, 12, 16, 20].get(kind as usize % 5).unwrap_or(&4)));
            for _ in 0..source.below(5) {
                let attribute = source.below(64) as u16;
                match source.chance(4) {
                    true => {
                        let (inner, value) = (source.below(16) as u16, source.take(12));
                        w.nest(attribute, |w| w.attr(inner, value));
                    }
                    false => {
                        let length = source.below(20);
                        w.attr(attribute, source.take(length));
                    }
                }
            }
        });
    }
    datagram(writer.as_bytes());
    let mut changed = writer.as_bytes().to_vec();
    for edit in source.rest().chunks_exact(2) {
        if let Some(byte) = changed.get_mut(usize::from(edit[0])) {
            *byte = edit[1];
        }
    }
    datagram(&changed);
});
