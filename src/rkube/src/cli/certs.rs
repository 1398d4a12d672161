//! `rkube certs`

use rkube_cluster::{CertificateStatus, Home, Kubeconfig, Profile, Progress, default_kubeconfig};
use rkube_failure::{Failure, command};

use super::output::table;
use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether the command prints a list of names.
    pub fn lists(&self) -> bool {
        matches!(self.command, Command::Check)
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show when the certificates of a cluster expire
    #[command(alias = "check-expiration")]
    Check,
    /// Renew all certificates of a cluster but those of its authorities
    Renew,
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    match args.command {
        Command::Check => check(home, global, output),
        Command::Renew => renew(home, global, output).await,
    }
}

fn check(home: &Home, global: &Global, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let found = rkube_cluster::certificates(home, &profile)?;
    output.result(&found, || {
        let heads = ["NAME", "SUBJECT", "EXPIRES", "LEFT", "AUTHORITY"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        rows.extend(found.iter().map(row));
        table(&rows)
    });
    if found.iter().any(|certificate| certificate.due) {
        output.warn(&format!(
            "some certificates expire soon; renew them: {}",
            command("certs renew", &profile.name)
        ));
    }
    Ok(())
}

fn row(certificate: &CertificateStatus) -> Vec<String> {
    vec![
        certificate.name.clone(),
        certificate.subject.clone(),
        certificate.expires.clone(),
        format_remaining(certificate.seconds_left),
        if certificate.authority { "yes" } else { "no" }.to_owned(),
    ]
}

/// Formats the time that is left of a validity.
fn format_remaining(seconds: i64) -> String {
    match seconds {
        ..0 => "expired".to_owned(),
        0..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

async fn renew(home: &Home, global: &Global, output: &Output) -> Result<(), Failure> {
    let name = &global.profile;
    let renewed = rkube_cluster::renew_certificates(home, name)?;
    let profile = Profile::load(home, name)?;
    let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
    rkube_cluster::update_entry(home, &profile, &kubeconfig)?;
    output.say(&format!("Renewed: {}.", renewed.join(", ")));
    let status = rkube_cluster::status(home, &profile, &kubeconfig).await?;
    if status.nodes.iter().any(|node| node.host == "Running") {
        output.say(&format!(
            "The nodes use them after a restart: {} && {}",
            command("stop", name),
            command("start", name)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_are_left() {
        assert_eq!(format_remaining(-1), "expired");
        assert_eq!(format_remaining(7200), "2h");
        assert_eq!(format_remaining(364 * 86_400 + 5), "364d");
    }
}
