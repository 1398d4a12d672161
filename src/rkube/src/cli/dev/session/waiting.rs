//! What follows once workloads are ready: the wait itself, and forwarded ports.

use std::time::Instant;

use rkube_cluster::Profile;
use serde_json::json;

use super::{Message, Session};
use crate::cli::dev::wait::{self, Target};

impl Session<'_> {
    pub(super) fn wait_in_background(&mut self, began: Instant) {
        if let Some(wait) = self.wait.take() {
            wait.abort();
        }
        self.waits += 1;
        let number = self.waits;
        let (client, timeout) = (self.deployer.client(), self.options.timeout);
        let (show, sender) = (self.show.clone(), self.sender.clone());
        let targets: Vec<Target> = self.waiting.values().cloned().collect();
        let wait = tokio::spawn(async move {
            let (ending, serving): (Vec<_>, Vec<_>) =
                targets.iter().cloned().partition(|target| target.ends);
            let served = wait::ready(&client, &serving, timeout).await;
            // Ports need not wait for jobs. The receiver is gone when the session has ended.
            let _ = sender.send(Message::Serving { number });
            let ended = wait::ready(&client, &ending, timeout).await;
            let failures = [served, ended].into_iter().filter_map(Result::err);
            let done = wait::together(failures.collect());
            match &done {
                Ok(()) if targets.is_empty() => {}
                Ok(()) => {
                    let titles: Vec<_> = targets.iter().map(|target| &target.title).collect();
                    let took = began.elapsed();
                    show.event(
                        "ready",
                        &format!("everything is ready, after {:.1} s", took.as_secs_f64()),
                        json!({ "objects": titles, "took": took.as_millis() as u64 }),
                    );
                }
                Err(failure) => show.failure(failure),
            }
            let ready = done.is_ok();
            let _ = sender.send(Message::Waited { ready, number });
        });
        self.wait = Some(wait.abort_handle());
    }

    /// Forwards the ports that the settings name, or those of all services.
    pub(super) async fn forward(&mut self) {
        if !self.options.forwards {
            return;
        }
        let wanted = match self.settings.ports.is_empty() {
            false => self.settings.ports.clone(),
            true => {
                let services = self.objects.iter();
                let services =
                    services.filter(|o| o.gvk.kind == "Service" && o.gvk.group.is_empty());
                let names = services
                    .map(|o| (o.namespace.clone().unwrap_or_default(), o.name.clone()))
                    .collect::<Vec<_>>();
                self.forwards.of_services(&names).await
            }
        };
        match Profile::load(self.home, &self.profile.name) {
            Ok(profile) => self.forwards.set_profile(&profile),
            Err(failure) => self.show.warn(&failure.message),
        }
        let namespace = self.settings.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        self.forwards.set(wanted, &namespace).await;
    }
}
