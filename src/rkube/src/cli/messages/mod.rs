//! Messages and help in other languages.
//!
//! English is the language of the source. A catalogue in gettext's PO format has the translations. Its
//! keys are the English texts, with `{}` for what a message inserts. Messages are looked up when they
//! are printed, so the code that makes them need not know of languages. Documents for programs
//! (`-o json`) stay English.

mod catalogue;
mod help;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ffi::OsString;
use std::sync::OnceLock;

use catalogue::Catalogue;
pub use help::{finish, translate};

use super::settings::Settings;

/// The flag and the setting that choose the language.
pub const SETTING: &str = "language";

/// A language of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// English
    En,
    /// Chinese (simplified)
    Zh,
}

/// The catalogue of the language that was chosen; without it, the language is English.
static CATALOGUE: OnceLock<Option<Catalogue>> = OnceLock::new();

/// Chooses the language: that of the flag, of `RKUBE_LANGUAGE`, of the settings, or of the locale. Only
/// the first call has an effect.
pub fn choose(words: &[OsString], settings: &Settings) {
    let variable = |name: &str| std::env::var(name).ok();
    let language = flag(words)
        .or_else(|| variable("RKUBE_LANGUAGE").filter(|value| !value.is_empty()))
        .or_else(|| settings.get(SETTING).map(str::to_owned))
        .map_or_else(|| of_locale(variable), |name| of_name(&name));
    // A second call comes from a test, and the first one decides.
    let _ = CATALOGUE.set(match language {
        Language::En => None,
        Language::Zh => Some(Catalogue::parse(include_str!("zh.po"))),
    });
}

/// Returns the value of `--language`, which is needed before the other flags are read.
fn flag(words: &[OsString]) -> Option<String> {
    let mut words = words.iter().map(|word| word.to_string_lossy());
    let mut value = None;
    while let Some(word) = words.next() {
        match word.strip_prefix("--language") {
            _ if word == "--" => break,
            Some("") => value = words.next().map(Cow::into_owned),
            Some(rest) => value = rest.strip_prefix('=').map(str::to_owned).or(value),
            None => {}
        }
    }
    value
}

/// Returns the language of a flag; the parser refuses names that it does not know.
fn of_name(name: &str) -> Language {
    match name.to_ascii_lowercase().as_str() {
        "zh" => Language::Zh,
        _ => Language::En,
    }
}

/// Returns the language of the locale, as gettext finds it: the first variable that is set decides.
fn of_locale(variable: impl Fn(&str) -> Option<String>) -> Language {
    let names = ["LC_ALL", "LC_MESSAGES", "LANG"];
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let Some(locale) = names.into_iter().find_map(set) else {
        return Language::En;
    };
    let locale = locale.to_ascii_lowercase();
    let (name, charset) = locale.split_once('.').unwrap_or((&locale, "utf-8"));
    let simplified = ["zh", "zh_cn", "zh_sg", "zh_my", "zh_hans", "zh-cn"].contains(&name)
        || name.starts_with("zh_hans");
    match simplified && matches!(charset.split('@').next(), Some("utf-8" | "utf8")) {
        true => Language::Zh,
        false => Language::En,
    }
}

/// Returns a text in the language that was chosen.
pub fn text(english: &str) -> Cow<'_, str> {
    let catalogue = CATALOGUE.get().and_then(Option::as_ref);
    match catalogue.and_then(|catalogue| catalogue.find(english)) {
        Some(text) => Cow::Owned(text),
        None => Cow::Borrowed(english),
    }
}

/// Whether texts are translated.
pub fn active() -> bool {
    matches!(CATALOGUE.get(), Some(Some(_)))
}
