//! `rkube dashboard`

use std::process::{Command, Stdio};

use rkube_cluster::{Home, Profile, Progress};
use rkube_dashboard::{Dashboard, Options};
use rkube_failure::{Failure, Kind, Source};

use super::{Global, Output, interrupted};

#[derive(clap::Args)]
pub struct Args {
    /// Print the URL instead of opening a browser, and serve until Ctrl-C
    #[arg(long)]
    url: bool,
    /// Local port of the dashboard [default: an unused port]
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "PORT"
    )]
    port: u16,
}

impl Args {
    /// Returns the arguments that open the dashboard, or only print its URL.
    pub fn of(url: bool) -> Self {
        Self { url, port: 0 }
    }
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let binary = std::env::current_exe().map_err(|e| {
        Failure::new(
            Source::Host,
            Kind::Error,
            format!("cannot determine the path of the rkube binary: {e}"),
        )
    })?;
    let dashboard = Dashboard::bind(Options {
        home: home.clone(),
        profile: profile.name.clone(),
        port: args.port,
        binary,
    })
    .await?;
    tokio::select! {
        checked = dashboard.check() => checked?,
        () = interrupted() => return Err(Failure::interruption()),
    }
    let link = dashboard.link();
    if args.url {
        output.result(&serde_json::json!({ "url": link }), || format!("{link}\n"));
    } else {
        if !open(&link) {
            output.warn("cannot open a browser; open the link below");
        }
        output.say(&format!(
            "The dashboard of '{}' is at {link}\nThe link works once. Press Ctrl-C to stop the dashboard.",
            profile.name
        ));
    }
    dashboard.run(interrupted()).await;
    Ok(())
}

/// Opens the user's web browser. Returns false if there is none.
pub fn open(link: &str) -> bool {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if cfg!(windows) {
        // Unlike `start` it does not interpret shell characters in the link.
        "rundll32"
    } else {
        let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        // Without a display it would run text browsers in this terminal.
        if !set("DISPLAY") && !set("WAYLAND_DISPLAY") {
            return false;
        }
        "xdg-open"
    };
    let mut command = Command::new(program);
    if cfg!(windows) {
        command.arg("url.dll,FileProtocolHandler");
    }
    command
        .arg(link)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok()
}
