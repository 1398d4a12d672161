//! ImageLocality: prefers nodes that already have the pod's images.

use super::types::MAX_SCORE;
use crate::cluster::View;
use crate::model::{NodeInfo, PodInfo};

const MIB: i64 = 1024 * 1024;
/// Image bytes below this score 0.
const MIN: i64 = 23 * MIB;
/// Image bytes above this, per image of the pod, score no more.
const MAX_PER_IMAGE: i64 = 1000 * MIB;

/// Returns the image name as nodes list it: with a tag.
fn normalized(image: &str) -> String {
    let after_slash = image.rfind('/').map_or(0, |i| i + 1);
    if image[after_slash..].contains(':') || image.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// Returns the scores of the nodes.
pub fn scores(pod: &PodInfo, view: View<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
    let total = view.cluster.nodes.len().max(1) as i64;
    let images: Vec<(String, i64)> = pod
        .images
        .iter()
        .map(|image| {
            let image = normalized(image);
            let having = view
                .nodes()
                .filter(|n| n.images.contains_key(&image))
                .count();
            (image, having as i64)
        })
        .collect();
    let max = MAX_PER_IMAGE.saturating_mul(pod.images.len().max(1) as i64);
    nodes
        .iter()
        .map(|node| {
            // Scale by the fraction of nodes that have the image, so that pods do not pile up on
            // few nodes.
            // Nodes report the sizes; any number is possible.
            let scaled = |size: i64, having: i64| {
                (i128::from(size) * i128::from(having) / i128::from(total)).min(i64::MAX.into())
                    as i64
            };
            let sum = images
                .iter()
                .filter_map(|(image, having)| Some(scaled(*node.images.get(image)?, *having)))
                .fold(0, i64::saturating_add);
            MAX_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::model::testing::*;
    use serde_json::json;

    #[test]
    fn images_at_hand() {
        let mut c = Cluster::default();
        let mut having = node("a");
        having.images.insert("app:latest".into(), 2000 * MIB);
        c.set_node(having);
        c.set_node(node("b"));
        let nodes: Vec<&NodeInfo> = c.nodes.values().collect();
        let p = pod("p", json!({"containers": [{"name": "c", "image": "app"}]}));
        assert_eq!(scores(&p, View::of(&c), &nodes), [100, 0]);
        // Init containers and image volumes count as well.
        let p = pod(
            "p",
            json!({
                "initContainers": [{"name": "i", "image": "app"}],
                "containers": [{"name": "c", "image": "other"}],
                "volumes": [{"name": "v", "image": {"reference": "app"}}],
            }),
        );
        assert_eq!(p.images, ["app", "other", "app"]);
        // Two images of 2000 MiB, of which half counts because half of the nodes have it.
        let wanted = 100 * (2000 - 23) / (3000 - 23);
        assert_eq!(scores(&p, View::of(&c), &nodes), [wanted, 0]);
        assert_eq!(normalized("host:5000/app"), "host:5000/app:latest");
        assert_eq!(normalized("app@sha256:0"), "app@sha256:0");
    }
}
