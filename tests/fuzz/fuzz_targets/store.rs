//! The files of the embedded store, its dumps, and the answers of an etcd: damage is an error or is
//! found, and what opens once opens again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rkube_fuzz::Source;
use rkube_store::dump::Entries;
use rkube_store::embedded::fuzzing::{File, Record, open};

const KEYS: [&str; 5] = ["/a", "/b", "/c/d", "", "é"];

fn file(source: &mut Source<'_>, base: u64, snapshot: bool) -> File {
    let mut next = base;
    let records = (0..source.below(9)).map(|_| {
        let kind = source.below(4) as u8;
        // Mostly the revision that follows.
        let number = match source.chance(8) {
            true => source.number(),
            false => next.wrapping_add(1),
        };
        next = number;
        let key = (*source.one_of(&KEYS)).to_owned();
        let length = source.below(16);
        let value = source.take(length).to_vec();
        Record {
            kind,
            number,
            key,
            value,
        }
    });
    let mut records: Vec<Record> = records.collect();
    if snapshot && !source.chance(4) {
        let (key, value) = (String::new(), Vec::new());
        records.retain(|record| record.kind == 0 || record.kind == 3);
        let number = records.iter().filter(|record| record.kind == 0).count() as u64;
        records.push(Record {
            kind: 2,
            number,
            key,
            value,
        });
    }
    let edits = if source.chance(4) {
        source.take(9)
    } else {
        &[]
    };
    let damage = edits.chunks_exact(3);
    let damage = damage.map(|d| (u16::from_be_bytes([d[0] % 2, d[1]]), d[2]));
    File {
        snapshot,
        base,
        records,
        damage: damage.collect(),
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = Entries::new(data) {
        // One error ends it.
        assert!(entries.take_while(Result::is_ok).count() <= data.len());
    }
    let mut source = Source::new(data);
    let mut files = Vec::new();
    let mut base = 1;
    for _ in 0..=source.below(4) {
        let log = file(&mut source, base, false);
        if source.chance(2) {
            files.push(file(&mut source, base, true));
        }
        let last = log.records.iter().rfind(|record| record.kind < 2);
        base = match source.chance(8) {
            true => source.number(),
            false => last.map_or(base, |record| record.number),
        };
        files.push(log);
    }
    open(&files);
});
