//! A substitute for shells on nodes, on platforms without pseudo-terminals.

use futures::SinkExt;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;

use crate::socket::Socket;

/// The WebSocket protocol that the page offers.
pub const PROTOCOL: &str = "v5.channel.k8s.io";

const END: u8 = 3;

/// Sends the page a failure that explains the alternative.
pub async fn serve(_command: Command, mut socket: Socket) {
    let ended = serde_json::json!({
        "status": "Failure",
        "message": "a node's shell cannot be shown here on this platform; \
                    open one in a terminal: rkube ssh -n NODE",
    });
    let mut message = vec![END];
    message.extend_from_slice(ended.to_string().as_bytes());
    // The page may have disconnected.
    let _ = socket.send(Message::binary(message)).await;
    let _ = socket.close(None).await;
}
