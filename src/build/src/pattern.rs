//! Patterns of file names: those of `.dockerignore` and `--exclude`, and the globs of `COPY`.

/// A character of a class, or a range of them.
#[derive(Clone, Debug)]
struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

/// An element of a pattern.
#[derive(Clone, Debug)]
enum Element {
    Is(char),
    /// Any character but a slash.
    One,
    /// Characters that are no slash.
    Star,
    /// Any characters.
    Deep,
    /// Nothing, or anything that ends with a slash.
    Dirs,
    Class(Class),
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern(Vec<Element>);

impl Pattern {
    /// Compiles a pattern in the form of Go's `filepath.Match`: `*`, `?`, classes and escapes.
    ///
    /// # Errors
    ///
    /// A message that names the pattern, if it is malformed.
    pub fn glob(text: &str) -> Result<Self, String> {
        Self::compile(text, false)
    }

    fn compile(text: &str, deep: bool) -> Result<Self, String> {
        let bad = || format!("syntax error in pattern: {text:?}");
        let chars: Vec<char> = text.chars().collect();
        let mut parts = Vec::new();
        let mut i = 0;
        while i < chars.len() {
            let c = chars[i];
            i += 1;
            parts.push(match c {
                '*' if deep && chars.get(i) == Some(&'*') => {
                    i += 1;
                    // A slash after the stars belongs to them.
                    i += usize::from(chars.get(i) == Some(&'/'));
                    if i == chars.len() {
                        Element::Deep
                    } else {
                        Element::Dirs
                    }
                }
                '*' => Element::Star,
                '?' => Element::One,
                '\\' => {
                    let escaped = *chars.get(i).ok_or_else(bad)?;
                    i += 1;
                    Element::Is(escaped)
                }
                '[' => {
                    let (class, next) = class(&chars, i).ok_or_else(bad)?;
                    i = next;
                    Element::Class(class)
                }
                c => Element::Is(c),
            });
        }
        Ok(Self(parts))
    }

    /// Returns whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        // The positions in the text that the parts so far can end at.
        let mut ends = vec![false; text.len() + 1];
        ends[0] = true;
        for part in &self.0 {
            let mut next = vec![false; text.len() + 1];
            for start in (0..=text.len()).filter(|i| ends[*i]) {
                part.advance(&text, start, &mut next);
            }
            ends = next;
        }
        ends[text.len()]
    }
}

impl Element {
    /// Marks the positions that the part can end at if it begins at `start`.
    fn advance(&self, text: &[char], start: usize, ends: &mut [bool]) {
        let rest = &text[start..];
        match self {
            Self::Star => {
                let length = rest.iter().take_while(|c| **c != '/').count();
                ends[start..=start + length].fill(true);
            }
            Self::Deep => ends[start..].fill(true),
            Self::Dirs => {
                ends[start] = true;
                let slashes = rest.iter().enumerate().filter(|(_, c)| **c == '/');
                slashes.for_each(|(i, _)| ends[start + i + 1] = true);
            }
            Self::Is(_) | Self::One | Self::Class(_) => {
                if rest.first().is_some_and(|c| self.takes(*c)) {
                    ends[start + 1] = true;
                }
            }
        }
    }

    fn takes(&self, c: char) -> bool {
        match self {
            Self::Is(wanted) => c == *wanted,
            Self::One => c != '/',
            Self::Class(class) => {
                c != '/'
                    && class.negated != class.ranges.iter().any(|(a, b)| (*a..=*b).contains(&c))
            }
            _ => false,
        }
    }
}

/// Reads a class after its opening bracket. Returns it and the position after it.
fn class(chars: &[char], mut at: usize) -> Option<(Class, usize)> {
    let one = |at: &mut usize| -> Option<char> {
        let mut c = *chars.get(*at)?;
        if matches!(c, '-' | ']') {
            return None;
        }
        if c == '\\' {
            *at += 1;
            c = *chars.get(*at)?;
        }
        *at += 1;
        Some(c)
    };
    let negated = chars.get(at) == Some(&'^');
    at += usize::from(negated);
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && *chars.get(at)? == ']' {
            return Some((Class { negated, ranges }, at + 1));
        }
        let low = one(&mut at)?;
        let mut high = low;
        if chars.get(at) == Some(&'-') {
            at += 1;
            high = one(&mut at)?;
        }
        ranges.push((low, high));
    }
}

/// Patterns of which the last one that matches decides.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    patterns: Vec<(bool, Pattern)>,
}

impl Matcher {
    /// Compiles patterns; those that begin with `!` are exceptions.
    ///
    /// # Errors
    ///
    /// The reason, if a pattern is malformed.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, String> {
        let mut out = Self::default();
        for text in patterns {
            let text = text.as_ref().trim();
            if text.is_empty() {
                continue;
            }
            let (exception, text) = match text.strip_prefix('!') {
                Some("") => return Err("illegal exclusion pattern: \"!\"".into()),
                Some(rest) => (true, rest),
                None => (false, text),
            };
            out.patterns
                .push((exception, Pattern::compile(&clean(text), true)?));
        }
        Ok(out)
    }

    /// Returns the patterns of a `.dockerignore`.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn of_ignore_file(text: &str) -> Result<Self, String> {
        let text = text.trim_start_matches('\u{feff}');
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let patterns = lines.filter_map(|line| {
            let line = line.trim();
            let (mark, rest) = match line.strip_prefix('!') {
                Some(rest) => ("!", rest.trim()),
                None => ("", line),
            };
            if rest.is_empty() {
                return (!mark.is_empty()).then(|| mark.to_owned());
            }
            let rest = clean(rest);
            let rest = match rest.strip_prefix('/') {
                Some(inner) if !inner.is_empty() => inner,
                _ => &rest,
            };
            Some(format!("{mark}{rest}"))
        });
        Self::new(patterns.collect::<Vec<String>>())
    }

    /// Returns whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Returns whether there are exceptions, so that an excluded directory may hold wanted files.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|(exception, _)| *exception)
    }

    /// Returns whether the patterns select `path`, or a directory that it is in.
    pub fn matches(&self, path: &str) -> bool {
        let mut matched = false;
        for (exception, pattern) in &self.patterns {
            if matched != *exception {
                continue;
            }
            let mut parents = path.match_indices('/').map(|(i, _)| &path[..i]);
            if pattern.matches(path) || parents.any(|parent| pattern.matches(parent)) {
                matched = !exception;
            }
        }
        matched
    }
}

/// Normalizes a path lexically, as Go's `path.Clean` does.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut out: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if out.last().is_some_and(|last| *last != "..") => {
                out.pop();
            }
            ".." if rooted => {}
            part => out.push(part),
        }
    }
    let joined = out.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".into(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignore_patterns_match_as_mobys() {
        // The pattern, a path, and whether it or one of its directories matches.
        for (pattern, path, expected) in [
            ("**", "file", true),
            ("**/", "file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir3/file", true),
            ("**file", "dir/dir/file", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt**", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("**/foo/bar", "dir/dir2/foo/bar", true),
            ("abc/**", "abc", false),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("a\\*b", "a*b", true),
            ("docs", "docs/README.md", true),
            ("*.go", ".", false),
            ("a*", "ab/c", true),
            ("a*b", "a/b", false),
            ("a?b", "a☺b", true),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("[\\]a]", "]", true),
            ("[x\\-]", "-", true),
        ] {
            let matcher = Matcher::new([pattern]).unwrap();
            assert_eq!(matcher.matches(path), expected, "{pattern} {path}");
        }
        for (patterns, path, expected) in [
            (
                &["**", "!util/docker/web"][..],
                "util/docker/web/foo",
                false,
            ),
            (
                &["**", "!util/docker/web", "util/docker/web/foo"],
                "util/docker/web/foo",
                true,
            ),
            (&["**", "!dist/*.whl"], "dist/a+b.whl", false),
            (&["!file.go", "*.go"], "file.go", true),
            (&["*.go", "!file.go"], "file.go", false),
            (&["docs/", "!docs/README.md"], "docs/README.md", false),
            (&[], "any", false),
        ] {
            let matcher = Matcher::new(patterns).unwrap();
            assert_eq!(matcher.matches(path), expected, "{patterns:?} {path}");
        }
        for bad in [
            "!", "[", "[]a]", "[-]", "[x-]", "[a-b-c]", "[^bc", "a[", "\\",
        ] {
            assert!(Matcher::new([bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn ignore_files_have_comments_and_roots() {
        let text = "\u{feff}# comment\n\n/target\n  ./a/../b  \n!  /b/keep \n #not-a-comment\n";
        let matcher = Matcher::of_ignore_file(text).unwrap();
        assert!(matcher.has_exceptions());
        for (path, expected) in [
            ("target/x", true),
            ("b/other", true),
            ("b/keep", false),
            ("#not-a-comment", true),
            ("# comment", false),
        ] {
            assert_eq!(matcher.matches(path), expected, "{path}");
        }
    }

    #[test]
    fn globs_do_not_cross_directories() {
        let matches = |pattern: &str, text| Pattern::glob(pattern).unwrap().matches(text);
        assert!(matches("a*b?c*x", "abxbbxdbxebxczzx"));
        assert!(!matches("a*b?c*x", "abxbbxdbxebxczzy"));
        assert!(!matches("a**b", "a/b"));
        assert!(matches("*x", "xxx"));
    }

    #[test]
    fn long_patterns_take_no_exponential_time() {
        let pattern = Pattern::glob(&"*a".repeat(60)).unwrap();
        assert!(!pattern.matches(&"a".repeat(59)));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(300))));
    }
}
