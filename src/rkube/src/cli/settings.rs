//! The user's settings: defaults of flags, in a file of `$RKUBE_HOME`.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use rkube_cluster::{Home, io_failure, make_private_dir, write_private};
use rkube_failure::{DEFAULT_PROFILE, Failure, Kind, Source};

/// The name of the setting that holds the profile which commands act on without `-p`.
const PROFILE: &str = "profile";

/// Defaults of flags, by the flags' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Reads the settings; there are none if the file does not exist.
    pub fn load(home: &Home) -> Result<Self, Failure> {
        let path = home.settings_file();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            // The home of some service accounts is no directory.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Self::default());
            }
            Err(e) => return Err(io_failure("read", &path, &e)),
        };
        serde_json::from_str(&text).map(Self).map_err(|e| {
            Failure::new(
                Source::Program,
                Kind::Config,
                format!("{} is damaged: {e}", path.display()),
            )
            .advise("repair the file, or remove it; it holds nothing but the defaults that rkube config set has stored")
        })
    }

    /// Writes the settings. Removes the file if there are none.
    pub fn save(&self, home: &Home) -> Result<(), Failure> {
        let path = home.settings_file();
        if self.0.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(io_failure("remove", &path, &e))
                }
                _ => {
                    home.tidy();
                    Ok(())
                }
            };
        }
        if let Some(dir) = path.parent() {
            make_private_dir(dir)?;
        }
        let text = serde_json::to_string_pretty(&self.0).map_err(|e| {
            Failure::new(
                Source::Program,
                Kind::Error,
                format!("cannot write the settings: {e}"),
            )
        })?;
        write_private(&path, format!("{text}\n").as_bytes())
    }

    /// Returns a setting.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Changes a setting.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// Removes a setting. Returns whether it was there.
    pub fn unset(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// Returns all settings, sorted by name.
    pub fn all(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Makes a profile the current one.
    pub fn select(&mut self, profile: &str) {
        if profile == DEFAULT_PROFILE {
            self.unset(PROFILE);
        } else {
            self.set(PROFILE, profile);
        }
    }

    /// Returns the profile that commands act on without `-p`: of the environment, of the settings,
    /// or the default.
    pub fn current_profile(&self) -> String {
        let set = std::env::var("RKUBE_PROFILE")
            .ok()
            .filter(|p| !p.is_empty());
        set.or_else(|| self.get(PROFILE).map(str::to_owned))
            .unwrap_or_else(|| DEFAULT_PROFILE.to_owned())
    }
}

impl Settings {
    /// Returns the profile that advice need not name: the current one, unless only this process's
    /// environment makes it so. Advice may be followed in another terminal.
    pub fn profile_of_advice(&self) -> String {
        let stored = self.get(PROFILE).unwrap_or(DEFAULT_PROFILE);
        if self.current_profile() == stored {
            stored.to_owned()
        } else {
            String::new()
        }
    }
}

/// Forgets that a deleted profile is the current one.
pub fn forget_profile(home: &Home, name: &str) -> Result<(), Failure> {
    let mut settings = Settings::load(home)?;
    if settings.get(PROFILE) == Some(name) {
        settings.unset(PROFILE);
        settings.save(home)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_kept_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        let mut settings = Settings::load(&home).unwrap();
        settings.set("memory", "4g");
        settings.select("work");
        settings.save(&home).unwrap();
        let read = Settings::load(&home).unwrap();
        assert_eq!(read, settings);
        assert_eq!(read.get("profile"), Some("work"));
        forget_profile(&home, "other").unwrap();
        assert_eq!(Settings::load(&home).unwrap(), settings);
        forget_profile(&home, "work").unwrap();
        let mut settings = Settings::load(&home).unwrap();
        assert_eq!(settings.get("profile"), None);
        assert!(settings.unset("memory") && !settings.unset("memory"));
        settings.save(&home).unwrap();
        assert!(!home.root().exists());
    }

    #[test]
    fn a_damaged_file_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        std::fs::create_dir(dir.path().join("config")).unwrap();
        std::fs::write(home.settings_file(), "{").unwrap();
        assert_eq!(Settings::load(&home).unwrap_err().exit_code(), 18);
    }
}
