//! Builds images for a session.

use std::collections::BTreeMap;

use futures::future::join_all;
use rkube_build::protocol::{Event, Request};
use rkube_cluster::{Home, Profile};
use rkube_dev::reference;
use rkube_dev::settings::Build;
use rkube_failure::{Failure, Kind, Source};
use serde_json::json;

use super::show::Show;
use crate::cli::image::build::{Outcome, Viewer, on_builder};
use crate::cli::image::screen::Screen;
use crate::cli::image::{check_name, everywhere, source, transfer};

/// The display of a build in a session: what its steps print, and no more.
struct Steps<'a> {
    show: &'a Show,
    image: &'a str,
    names: BTreeMap<usize, String>,
    /// The step whose title was printed last.
    current: Option<usize>,
    /// Keeps the last lines of each step for the explanation of a failure.
    kept: Screen,
}

impl Steps<'_> {
    /// Whether a step is one of the Dockerfile.
    fn is_step(&self, id: usize) -> bool {
        let name = self.names.get(&id);
        name.is_some_and(|name| !name.starts_with("[internal]") && name.starts_with('['))
    }
}

impl Viewer for Steps<'_> {
    fn note(&mut self, text: &str) {
        self.show.building(self.image, text);
    }

    fn show(&mut self, event: &Event) {
        self.kept.show(event);
        match event {
            Event::Begin { id, name } => {
                self.names.insert(*id, name.clone());
            }
            // What the builder does itself is of no interest here.
            Event::Line { id, .. } if !self.is_step(*id) => {}
            Event::Line { id, text, .. } => {
                if self.current != Some(*id) {
                    self.current = Some(*id);
                    let name = self.names.get(id).map_or("", String::as_str);
                    self.show.building(self.image, name);
                }
                self.show.building(self.image, text);
            }
            // The other display tells warnings.
            _ => {}
        }
    }
}

/// Builds an image and puts it on all nodes, under a name that follows from its content, which is
/// noted before. Returns the name, or `None` if the Dockerfile or a step is to blame for a failure,
/// which was shown then.
pub async fn build(
    home: &Home,
    profile: &Profile,
    build: &Build,
    show: &Show,
    note: impl Fn(&str) -> Result<(), Failure>,
) -> Result<Option<String>, Failure> {
    let began = std::time::Instant::now();
    let text = |path: &std::path::Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            let message = format!("{}: the path is not UTF-8", path.display());
            Failure::new(Source::Program, Kind::Unsupported, message)
        })
    };
    let dockerfile = text(&build.dockerfile())?;
    let context = source::open(&text(&build.context)?, Some(&dockerfile)).await;
    let context = context.map_err(|failure| match failure.kind {
        Kind::NotFound => failure.advise("name the Dockerfile: --build IMAGE=DIRECTORY,file=PATH"),
        _ => failure,
    })?;
    let request = Request {
        dockerfile: context.dockerfile.clone(),
        dockerfile_name: context.dockerfile_name.clone(),
        build_args: build.args.clone(),
        target: build.target.clone(),
        ..Request::default()
    };
    let image = build.image.as_str();
    show.event(
        "building",
        &format!("building {image}"),
        json!({ "image": image }),
    );
    let mut steps = Steps {
        show,
        image,
        names: BTreeMap::new(),
        current: None,
        kept: Screen::new(true, false),
    };
    let node = profile.control_plane();
    let outcome = on_builder(home, profile, node, &request, &context, &mut steps).await?;
    let mut built = match outcome {
        Outcome::Built(built) => built,
        Outcome::Failed(error) => {
            if show.json() {
                let data =
                    json!({ "image": image, "message": error.message, "lines": error.lines });
                show.event("buildFailed", "", data);
            } else {
                steps.kept.explain(&error, &context);
            }
            return Ok(None);
        }
    };
    let name = reference::by_content(image, &built.id);
    built.names = vec![check_name(&name)?.to_owned()];
    // Whatever ends this: what is on the nodes can be taken away.
    note(&name)?;
    transfer::distribute(home, profile, node, &built).await?;
    let took = began.elapsed();
    show.event(
        "built",
        &format!("built {name} in {:.1} s", took.as_secs_f64()),
        json!({ "image": image, "name": name, "took": took.as_millis() as u64 }),
    );
    Ok(Some(name))
}

/// Takes names of images away on all nodes. Returns those that could not be taken away, because
/// containers use them.
pub async fn forget(home: &Home, profile: &Profile, names: &[String]) -> Vec<String> {
    let attempts = names.iter().map(|name| async move {
        // Names that are none were not made by a build.
        let name = check_name(name).ok()?;
        let command = format!("rkube ctl untag {name}");
        let done = everywhere(home, profile, &command).await;
        done.err().map(|_| name.to_owned())
    });
    join_all(attempts).await.into_iter().flatten().collect()
}
