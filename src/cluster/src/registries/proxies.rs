//! Proxies for HTTP, as the environment of the host names them.

use rkube_config::registries::Proxies;

use crate::profile::Profile;

/// Where the proxies of the nodes come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// They stay as they are.
    #[default]
    Keep,
    /// There are none.
    None,
    /// These. `NO_PROXY` has what the user excludes.
    Use(Proxies),
}

impl ProxyChoice {
    /// Returns the choice that variables make: those in capital letters, or else in small ones. They
    /// change nothing if they name no proxy.
    ///
    /// # Errors
    /// Fails with the variable and the reason if a proxy cannot be used.
    pub fn of_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let value = |name: &str| {
            let set = |name: &str| get(name).filter(|value| !value.trim().is_empty());
            set(name).or_else(|| set(&name.to_ascii_lowercase()))
        };
        let proxy = |name: &str| match value(name) {
            None => Ok(String::new()),
            Some(text) => url(&text).map_err(|why| format!("{name}: {why}")),
        };
        let (http, https) = (proxy("HTTP_PROXY")?, proxy("HTTPS_PROXY")?);
        if http.is_empty() && https.is_empty() {
            return Ok(Self::Keep);
        }
        Ok(Self::Use(Proxies {
            http,
            https,
            no_proxy: value("NO_PROXY").unwrap_or_default(),
            pods: false,
        }))
    }

    /// Parses the value of `--proxy`: `auto` for those of the environment, `none`, or a URL for all
    /// requests.
    ///
    /// # Errors
    /// Fails with the reason.
    pub fn parse(text: &str, get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        match text {
            "auto" | "" => Self::of_environment(get),
            "none" => Ok(Self::None),
            text => {
                let url = url(text)?;
                let no_proxy = get("NO_PROXY").or_else(|| get("no_proxy"));
                Ok(Self::Use(Proxies {
                    http: url.clone(),
                    https: url,
                    no_proxy: no_proxy.unwrap_or_default(),
                    pods: false,
                }))
            }
        }
    }

    /// Returns the proxies with the choice. `excluded` are names and ranges that no proxy reaches.
    pub(super) fn applied(&self, now: &Proxies, excluded: &[String]) -> Proxies {
        let (proxies, own) = match self {
            Self::None => {
                return Proxies {
                    pods: now.pods,
                    ..Proxies::default()
                };
            }
            Self::Keep if !now.any() => return now.clone(),
            Self::Keep => (now, now.no_proxy.clone()),
            Self::Use(proxies) => (proxies, proxies.no_proxy.clone()),
        };
        let mut all: Vec<&str> = own
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .collect();
        for entry in excluded {
            if !all.contains(&entry.as_str()) {
                all.push(entry);
            }
        }
        Proxies {
            no_proxy: all.join(","),
            pods: now.pods,
            ..proxies.clone()
        }
    }
}

/// Checks the URL of a proxy, which may lack its scheme.
fn url(text: &str) -> Result<String, String> {
    let text = text.trim();
    let url = match text.split_once("://") {
        Some(_) => text.to_owned(),
        None => format!("http://{text}"),
    };
    let parsed = reqwest::Url::parse(&url).map_err(|e| format!("'{text}' is not a URL: {e}"))?;
    match parsed.scheme() {
        "http" | "https" => Ok(url.trim_end_matches('/').to_owned()),
        other => Err(format!(
            "'{text}': proxies of the kind {other} are not supported, only http and https"
        )),
    }
}

/// Returns the names and ranges of a cluster that no proxy reaches.
pub fn no_proxy(profile: &Profile) -> Vec<String> {
    let mut all: Vec<String> = ["localhost", "127.0.0.0/8", "::1"]
        .map(str::to_owned)
        .into();
    for range in [profile.node_cidr, profile.pod_cidr, profile.service_cidr] {
        all.push(range.to_string());
    }
    if let Some(ipv6) = profile.ipv6 {
        let ranges = [ipv6.node_cidr, ipv6.pod_cidr, ipv6.service_cidr];
        all.extend(ranges.map(|range| range.to_string()));
    }
    if profile.driver == "qemu" {
        all.push(rkube_drivers::QEMU_HOST.to_string());
    }
    all.push(".svc".to_owned());
    all.push(format!(".{}", profile.dns_domain));
    all.extend(profile.nodes.iter().map(|node| node.name.clone()));
    all
}
