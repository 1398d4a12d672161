//! The list of containers, for `docker ps`.

use hyper::{Response, StatusCode};
use jiff::Timestamp;
use rkube_cluster::Node;
use rkube_failure::{Failure, Kind, Source};
use serde::Deserialize;
use serde_json::{Value, json};

use super::images::familiar;
use super::reply::{self, Body, Error};
use super::request::Query;
use super::server::Endpoint;
use crate::cli::image::{on_node, remote_failure};

/// A container of a node.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    id: String,
    image: String,
    created: String,
    state: String,
    exit_code: Option<i32>,
    pid: Option<i32>,
    name: String,
    pod: String,
    namespace: String,
    #[serde(skip)]
    node: String,
}

impl Container {
    fn created(&self) -> i64 {
        let time: Result<Timestamp, _> = self.created.parse();
        time.map_or(0, Timestamp::as_second)
    }

    /// Returns its name as Docker showed that of a pod's container.
    fn docker_name(&self) -> String {
        format!("k8s_{}_{}_{}", self.name, self.pod, self.namespace)
    }

    fn status(&self, now: i64) -> String {
        match self.state.as_str() {
            "running" => format!("Up {}", duration(now - self.created())),
            "exited" => format!("Exited ({})", self.exit_code.unwrap_or(0)),
            _ => "Created".to_owned(),
        }
    }

    /// Whether `name` is its name, its ID or the begin of that.
    fn is_called(&self, name: &str) -> bool {
        name.trim_start_matches('/') == self.docker_name()
            || !name.is_empty() && self.id.starts_with(name)
    }

    fn labels(&self) -> Value {
        json!({
            "io.kubernetes.container.name": self.name,
            "io.kubernetes.pod.name": self.pod,
            "io.kubernetes.pod.namespace": self.namespace,
            "io.rkube.node": self.node,
        })
    }

    fn description(&self) -> Value {
        json!({
            "Id": self.id,
            "Name": format!("/{}", self.docker_name()),
            "Created": self.created,
            "Path": "",
            "Args": [],
            "Image": familiar(&self.image),
            "State": {
                "Status": self.state,
                "Running": self.state == "running",
                "Paused": false,
                "Restarting": false,
                "OOMKilled": false,
                "Dead": false,
                "Pid": self.pid.unwrap_or(0),
                "ExitCode": self.exit_code.unwrap_or(0),
                "Error": "",
            },
            "Config": { "Image": familiar(&self.image), "Labels": self.labels() },
            "HostConfig": { "NetworkMode": "" },
            "NetworkSettings": { "Networks": {}, "Ports": {} },
            "Mounts": [],
        })
    }

    fn row(&self, now: i64) -> Value {
        json!({
            "Id": self.id,
            "Names": [format!("/{}", self.docker_name())],
            "Image": familiar(&self.image),
            "ImageID": "",
            "Command": "",
            "Created": self.created(),
            "Ports": [],
            "Labels": self.labels(),
            "State": self.state,
            "Status": self.status(now),
            "HostConfig": { "NetworkMode": "" },
            "NetworkSettings": { "Networks": {} },
            "Mounts": [],
        })
    }
}

/// Returns a duration in Docker's words.
fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// `docker container inspect`
pub async fn inspect(endpoint: &Endpoint, name: &str) -> Result<Response<Body>, Error> {
    let found = all(endpoint, true).await?;
    match found.iter().find(|container| container.is_called(name)) {
        Some(container) => Ok(reply::json(&container.description())),
        None => {
            let message = format!("No such container: {name}");
            Err(Error::new(StatusCode::NOT_FOUND, message))
        }
    }
}

/// Returns the containers of all nodes that run.
async fn all(endpoint: &Endpoint, exited: bool) -> Result<Vec<Container>, Failure> {
    let profile = endpoint.profile()?;
    let nodes = profile.nodes.iter().filter(|node| !node.stopped);
    let command = match exited {
        true => "rkube ctl ps -a -o json",
        false => "rkube ctl ps -o json",
    };
    let lists = nodes.map(|node| async {
        match on_node(&endpoint.home, &profile, node, command, None).await? {
            (0, text, _) => read(node, &text),
            (code, _, error) => Err(remote_failure(node, code, &error)),
        }
    });
    let mut found = Vec::new();
    for list in futures::future::join_all(lists).await {
        found.extend(list?);
    }
    Ok(found)
}

/// `docker ps`
pub async fn list(endpoint: &Endpoint, query: &Query) -> Result<Response<Body>, Error> {
    let filters = query.filters(&["id", "name", "status"])?;
    let limit = match query.get("limit").map(str::parse::<i64>) {
        None => None,
        // Docker's clients say -1 for none.
        Some(Ok(limit)) => usize::try_from(limit).ok().filter(|limit| *limit > 0),
        Some(Err(e)) => {
            let message = format!("the parameter limit is malformed: {e}");
            return Err(Error::new(StatusCode::BAD_REQUEST, message));
        }
    };
    let exited = query.flag("all") || limit.is_some() || !filters.any("status", |_| false);
    let mut found = all(endpoint, exited).await?;
    found.retain(|container: &Container| {
        filters.any("id", |id| container.id.starts_with(id))
            && filters.any("name", |name| container.docker_name().contains(name))
            && filters.any("status", |status| container.state == status)
    });
    found.sort_by_key(|container| std::cmp::Reverse(container.created()));
    found.truncate(limit.unwrap_or(usize::MAX));
    let now = Timestamp::now().as_second();
    let rows: Vec<Value> = found.iter().map(|container| container.row(now)).collect();
    Ok(reply::json(&rows))
}

fn read(node: &Node, text: &str) -> Result<Vec<Container>, Failure> {
    let mut found: Vec<Container> = serde_json::from_str(text).map_err(|e| {
        let message = format!("{}: the list of containers is malformed: {e}", node.name);
        Failure::new(Source::Runtime, Kind::Error, message)
    })?;
    for container in &mut found {
        container.node.clone_from(&node.name);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_dockers_words() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (600, "10 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3 * 86_400, "3 days"),
            (15 * 86_400, "2 weeks"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn containers_have_the_names_of_their_pods() {
        let container = Container {
            id: "c1".into(),
            image: "docker.io/library/app:1".into(),
            created: "1970-01-01T00:00:10Z".into(),
            state: "exited".into(),
            exit_code: Some(3),
            pid: None,
            name: "web".into(),
            pod: "web-0".into(),
            namespace: "default".into(),
            node: "n".into(),
        };
        let row = container.row(20);
        assert_eq!(row["Names"][0], "/k8s_web_web-0_default");
        assert_eq!(row["Image"], "app:1");
        assert_eq!(row["Created"], 10);
        assert_eq!(row["Status"], "Exited (3)");
        assert_eq!(container.description()["State"]["ExitCode"], 3);
        for (name, called) in [
            ("c1", true),
            ("c", true),
            ("k8s_web_web-0_default", true),
            ("web", false),
            ("", false),
        ] {
            assert_eq!(container.is_called(name), called, "{name}");
        }
    }
}
