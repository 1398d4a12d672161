//! `rkube ctl store`: checks and repairs the embedded store of the node, without the API server.

use std::path::Path;
use std::time::Duration;

use rkube_config::paths;
use rkube_failure::{Failure, Kind, Source};
use rkube_store::StoreError;
use rkube_store::embedded::{self, Check, Replaced};

use super::Output;
use super::output::table;

/// How long to wait for a control plane that tries to open the store again and again.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, clap::Subcommand)]
pub enum Command {
    /// Check the files of the store; it may be in use
    Verify,
    /// Make a store of all that is intact in a damaged one
    ///
    /// The damaged files are kept in a directory beside it. The control plane opens the new store
    /// at its next attempt. A store that opens is not changed.
    Salvage,
    /// Make an empty store
    ///
    /// The files of the old one are kept in a directory beside it. It must not be in use.
    Reset,
}

/// Runs a command on the node's store.
pub fn run(command: Command, output: &Output) -> Result<(), Failure> {
    let dir = Path::new(paths::STORE);
    if !dir.exists() {
        return Err(
            Failure::new(Source::Guest, Kind::NotFound, "this node has no store")
                .advise("run it on the node of the control plane, of a cluster without --store"),
        );
    }
    match command {
        Command::Verify => verify(dir, output),
        Command::Salvage => match embedded::salvage(dir, OPEN_TIMEOUT).map_err(failure)? {
            Some(replaced) => {
                report(&replaced, output);
                Ok(())
            }
            None => {
                let value = serde_json::json!({ "changed": false });
                output.result(&value, || "The store opens; nothing was changed.".into());
                Ok(())
            }
        },
        Command::Reset => {
            report(
                &embedded::reset(dir, OPEN_TIMEOUT).map_err(failure)?,
                output,
            );
            Ok(())
        }
    }
}

fn verify(dir: &Path, output: &Output) -> Result<(), Failure> {
    let check = embedded::verify(dir).map_err(failure)?;
    output.result(&check_value(&check), || check_text(&check));
    match &check.opens {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(failure(error.clone()).advise("keep what is intact with: rkube ctl store salvage"))
        }
    }
}

fn check_value(check: &Check) -> serde_json::Value {
    let segments: Vec<_> = check
        .segments
        .iter()
        .map(|segment| {
            serde_json::json!({
                "file": segment.file,
                "frames": segment.frames,
                "records": segment.records,
                "damage": segment.damage,
            })
        })
        .collect();
    let opened = check.opens.as_ref().ok();
    serde_json::json!({
        "sound": check.is_sound(),
        "revision": opened.map(|(revision, _)| revision),
        "entries": opened.map(|(_, entries)| entries),
        "error": check.opens.as_ref().err().map(ToString::to_string),
        "segments": segments,
    })
}

fn check_text(check: &Check) -> String {
    let head = ["FILE", "COMMITS", "RECORDS", "DAMAGE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(check.segments.iter().map(|segment| {
        let damage = match segment.damage.as_slice() {
            [] => "none".to_owned(),
            damage => damage.join("; "),
        };
        vec![
            segment.file.clone(),
            segment.frames.to_string(),
            segment.records.to_string(),
            damage,
        ]
    }));
    let summary = match (&check.opens, check.is_sound()) {
        (Ok((revision, entries)), true) => {
            format!("The store is sound: {entries} entries at revision {revision}.")
        }
        (Ok((revision, entries)), false) => format!(
            "The store opens in spite of the damage, and nothing is lost: {entries} entries at \
             revision {revision}."
        ),
        (Err(_), _) => "The store does not open.".to_owned(),
    };
    format!("{}\n{summary}", table(&rows).trim_end())
}

fn report(replaced: &Replaced, output: &Output) {
    let kept = replaced.kept.display().to_string();
    let value = serde_json::json!({
        "changed": true,
        "revision": replaced.revision,
        "entries": replaced.entries,
        "damage": replaced.damage,
        "lostRevisions": replaced.missing,
        "kept": kept,
    });
    output.result(&value, || {
        let mut lines = replaced.damage.clone();
        lines.extend(
            replaced
                .missing
                .iter()
                .map(|(first, last)| match last - first {
                    0 => format!("The change of revision {first} is lost."),
                    _ => format!("The changes of revisions {first} to {last} are lost."),
                }),
        );
        lines.push(format!(
            "The store has {} entries at revision {}. The old files are in {kept}.",
            replaced.entries, replaced.revision
        ));
        lines.join("\n")
    });
}

fn failure(error: StoreError) -> Failure {
    let kind = match error {
        StoreError::Corrupt(_) => Kind::Config,
        StoreError::Format(_) => Kind::Unsupported,
        StoreError::InUse(_) => Kind::Conflict,
        _ => Kind::Error,
    };
    Failure::new(Source::Guest, kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use rkube_store::embedded::Segment;

    use super::*;

    #[test]
    fn a_check_says_whether_something_is_lost() {
        let segment = |damage: &[&str]| Segment {
            file: "log-1".into(),
            frames: 1,
            records: 2,
            damage: damage.iter().map(|d| (*d).to_owned()).collect(),
        };
        let check = |damage: &[&str], opens| Check {
            segments: vec![segment(damage)],
            opens,
        };
        let sound = check_text(&check(&[], Ok((7, 3))));
        assert!(
            sound.ends_with("The store is sound: 3 entries at revision 7."),
            "{sound}"
        );
        let older = check_text(&check(&["bad"], Ok((7, 3))));
        assert!(older.contains("nothing is lost"), "{older}");
        let error = StoreError::Corrupt("bad".into());
        let lost = check(&["bad"], Err(error));
        assert!(check_text(&lost).ends_with("The store does not open."));
        assert_eq!(check_value(&lost)["sound"], false);
        assert_eq!(check_value(&lost)["error"], "the store is damaged: bad");
    }
}
