//! Copies files into running containers.

use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use rkube_cluster::{Home, Profile};
use rkube_dev::copies::{Copies, MAX_BYTES};
use rkube_failure::Kind;
use serde_json::json;

use super::live::Place;
use super::show::Show;
use crate::cli::image::{Input, on_node};

/// Copies files into containers, on their nodes. Returns why that is not possible; the image is built
/// then.
pub async fn copy(
    home: &Home,
    profile: &Profile,
    places: &[Place],
    copies: &Copies,
    signal: Option<i32>,
) -> Result<(), String> {
    if places.is_empty() {
        return Err("no container of it runs".to_owned());
    }
    if copies.bytes() > MAX_BYTES {
        return Err(format!("the files have more than {} MiB", MAX_BYTES >> 20));
    }
    let mut stream = Vec::new();
    copies
        .stream(signal, &mut stream)
        .map_err(|e| format!("the files cannot be read: {e}"))?;
    let stream = Bytes::from(stream);
    let sending = places.iter().map(|place| {
        let stream = stream.clone();
        async move {
            let node = profile.node(Some(&place.node)).map_err(|f| f.message)?;
            let input: Input = Box::new(Cursor::new(stream));
            // The shell of the node reads it as root, and it comes from the status of a pod, which
            // others may write.
            if !is_id(&place.id) {
                return Err(format!("{}: the ID of its container is none", place.pod));
            }
            let command = format!("rkube ctl sync {}", place.id);
            let done = on_node(home, profile, node, &command, Some(input)).await;
            match done.map_err(|f| f.message)? {
                (0, ..) => Ok(()),
                // Another container has taken its place, and gets the files when it starts.
                (code, ..) if Kind::of_exit_code(code) == Kind::NotFound => Ok(()),
                (_, _, error) => Err(format!("{}: {error}", place.pod)),
            }
        }
    });
    join_all(sending).await.into_iter().collect()
}

/// Returns whether a text is the ID of a container.
fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Tells what was copied.
pub fn tell(show: &Show, image: &str, copies: &Copies, places: &[Place], took: Duration) {
    let containers: Vec<_> = places
        .iter()
        .map(|place| format!("{}/{}", place.pod, place.container))
        .collect();
    show.event(
        "synced",
        &format!(
            "synced {} to {} in {} ms",
            counted(copies.len(), "file"),
            counted(places.len(), "container"),
            took.as_millis()
        ),
        json!({
            "image": image, "files": copies.len(), "containers": containers,
            "took": took.as_millis() as u64,
        }),
    );
}

/// Returns a number with its noun.
fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_nothing_for_a_shell() {
        assert!(is_id("0a1b2c"));
        for text in ["", "-x", "a b", "a;reboot", "$(x)", "a\nb", "../x"] {
            assert!(!is_id(text), "{text}");
        }
    }
}
