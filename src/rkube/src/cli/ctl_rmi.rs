//! `rkube ctl rmi`: removes an image that no container uses.

use rkube_failure::{Failure, Kind, Source};
use rkube_runtime::{ImageError, Runtime};

use super::{image_failure, label};
use crate::cli::image::ABSENT;

/// Removes an image, or only checks with `check` whether that is possible.
pub(super) async fn run(runtime: &Runtime, image: String, check: bool) -> Result<(), Failure> {
    let present = runtime.image_status(&image).is_some();
    if check {
        if present {
            let unused = runtime.check_unused(&image);
            return unused.map_err(|e| in_use(runtime, e));
        }
        println!("{ABSENT}");
        return Ok(());
    }
    // The runtime does not report images that do not exist.
    if !present {
        return Err(image_failure(ImageError::NotPresent(image)));
    }
    let removed = runtime.remove_image(&image).await;
    removed.map_err(|e| in_use(runtime, e))
}

/// Converts an error of the removal of an image. Names the pod whose container uses it.
pub(super) fn in_use(runtime: &Runtime, e: ImageError) -> Failure {
    let ImageError::InUse { image, container } = &e else {
        return image_failure(e);
    };
    let all = runtime.list_containers();
    match all.iter().find(|c| c.id == *container) {
        Some(found) if !label(found, "pod.name").is_empty() => {
            let message = format!(
                "image {image:?} is used by the container {} of the pod {} in the namespace {}",
                label(found, "container.name"),
                label(found, "pod.name"),
                label(found, "pod.namespace")
            );
            Failure::new(Source::Runtime, Kind::Conflict, message)
        }
        _ => image_failure(e),
    }
}
