//! YAML from outside of the API: configurations of nodes, which are written and then read the same,
//! and audit policies.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rkube_config::NodeConfig;

/// A configuration, of which the fuzzer changes lines.
const NODE: &str = "\
cluster:
  name: c
  dnsDomain: cluster.local
  serviceCidr: 10.96.0.0/12
  dnsIp: 10.96.0.10
  podCidr: 10.244.0.0/16
  nodeCidr: 192.168.1.0/24
  apiServerIp: 192.168.1.2
  apiServerPort: 8443
  nodes: [{name: n, ip: 192.168.1.2, labels: {a: b}, taints: [{key: k, effect: NoExecute}]}]
name: n
ip: 192.168.1.2
podCidr: 10.244.0.0/24
controlPlane: true
providerId: rkube://native/c/n
maxPods: 110
";

fn node(text: &str) {
    if let Ok(config) = serde_yaml::from_str::<NodeConfig>(text) {
        let written = config.to_yaml();
        let again: NodeConfig =
            serde_yaml::from_str(&written).expect("what was written can be read");
        assert_eq!(again, config);
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    node(text);
    let (at, rest) = text.split_at(text.ceil_char_boundary(1));
    let at = at.bytes().next().map_or(0, usize::from);
    let mut lines: Vec<&str> = NODE.lines().collect();
    let at = at % lines.len();
    lines.splice(at..=at, rest.lines());
    node(&lines.join("\n"));

    let _ = rkube_audit::Policy::parse(text);
});
