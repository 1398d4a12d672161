//! A shell on a node, in the page's terminal: not where there are no
//! pseudo-terminals for `rkube ssh` to run in.

use futures::SinkExt;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;

use crate::socket::Socket;

/// The protocol that the page offers.
pub const PROTOCOL: &str = "v5.channel.k8s.io";

const END: u8 = 3;

/// Tells the page that there is none, and what to do instead.
pub async fn serve(_command: Command, mut socket: Socket) {
    let ended = serde_json::json!({
        "status": "Failure",
        "message": "a node's shell cannot be shown here on this platform; \
                    open one in a terminal: rkube ssh -n NODE",
    });
    let mut message = vec![END];
    message.extend_from_slice(ended.to_string().as_bytes());
    // The page may have left.
    let _ = socket.send(Message::binary(message)).await;
    let _ = socket.close(None).await;
}
