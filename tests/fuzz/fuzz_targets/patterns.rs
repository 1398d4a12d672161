//! Go patterns: any text, then simple patterns whose matches are compared with those of the
//! crate `regex`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rkube_fuzz::Source;
use rkube_go_regexp::Pattern;

/// Syntax that both crates interpret alike.
const PARTS: [&str; 24] = [
    "a", "b", "é", ".", "*", "+", "?", "|", "(", ")", "(?:", "[ab]", "[^a]", "{2}", "{1,3}", "{0,2}", "^",
    "$", "*?", "+?", "(?s:", "(?i:", "(?m:", "\\p{L}",
];
const LETTERS: [char; 6] = ['a', 'b', 'A', 'é', '\n', '1'];

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(pattern) = Pattern::new(text)
    {
        let found = pattern.find(text);
        assert_eq!(found.is_some(), pattern.is_match(text));
    }
    let mut source = Source::new(data);
    let mut pattern = String::new();
    for _ in 0..source.below(10) {
        pattern.push_str(PARTS[source.below(PARTS.len())]);
    }
    let mut text = String::new();
    for _ in 0..source.below(12) {
        text.push(LETTERS[source.below(LETTERS.len())]);
    }
    let (Ok(ours), Ok(theirs)) = (Pattern::new(&pattern), regex::Regex::new(&pattern)) else {
        return;
    };
    let theirs: Vec<&str> = theirs.find_iter(&text).map(|m| m.as_str()).collect();
    let ours: Vec<&str> = ours.find_all(&text).collect();
    assert_eq!(ours, theirs, "{pattern:?} in {text:?}");
});
