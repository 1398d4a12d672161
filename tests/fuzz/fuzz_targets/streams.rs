//! Streams of exec, attach and port-forward: SPDY frames, a session that answers them, and messages
//! over WebSockets.

#![no_main]

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use rkube_fuzz::Source;
use rkube_streams::fuzzing::{spdy_block, spdy_frames};
use rkube_streams::{spdy, websocket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;

const PROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "x",
];

/// Returns frames that are mostly valid.
fn frames(source: &mut Source<'_>) -> Vec<u8> {
    let mut wire = Vec::new();
    for _ in 0..source.below(12) {
        let id = source.below(9) as u8;
        let fin = u8::from(source.chance(4));
        let kind = *source.one_of(&[1, 1, 1, 2, 3, 4, 6, 7, 8, 9, 5, 0, 0, 0]);
        let body = match kind {
            0 => source.take(20).to_vec(),
            1 | 2 => {
                let name = ["streamtype", "port", "requestid"][source.below(3)].to_owned();
                let value = source.take(4).iter().map(|b| char::from(b % 128)).collect();
                let mut block = spdy_block(&[(name, value)].into());
                // The zlib header is that of the first block only.
                if source.chance(2) {
                    block.drain(..2);
                }
                let fixed = [&[0, 0, 0, id][..], &[0; 6]].concat();
                [&fixed[..if kind == 1 { 10 } else { 4 }], &block].concat()
            }
            _ => [&[0, 0, 0, id][..], source.take(4)].concat(),
        };
        match kind {
            0 => wire.extend([0, 0, 0, id]),
            _ => wire.extend([0x80, 3, 0, kind]),
        }
        let length = body.len() as u32;
        let length = if source.chance(32) {
            length + 1
        } else {
            length
        };
        wire.push(fin);
        wire.extend(&length.to_be_bytes()[1..]);
        wire.extend(body);
    }
    wire.extend(source.take(8));
    wire
}

/// Serves a session whose client sends `wire` and leaves. It ends, and so does every stream.
async fn session(wire: &[u8]) {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let (mut streams, pending) = spdy::prepare();
    pending.start(server);
    let serve = async {
        while let Some(mut stream) = streams.recv().await {
            let mut input = Vec::new();
            // A client that has left cannot be answered.
            let _ = stream.io.read_to_end(&mut input).await;
            let _ = stream.io.write_all(&input).await;
            let _ = stream.io.shutdown().await;
        }
    };
    let send = async {
        let _ = client.write_all(wire).await;
        let _ = client.shutdown().await;
        let mut answers = Vec::new();
        let _ = client.read_to_end(&mut answers).await;
    };
    let both = async { tokio::join!(serve, send) };
    let done = tokio::time::timeout(Duration::from_secs(10), both).await;
    assert!(done.is_ok(), "the session does not end");
}

fuzz_target!(|data: &[u8]| {
    spdy_frames(data);
    let mut source = Source::new(data);
    let wire = frames(&mut source);
    spdy_frames(&wire);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(session(&wire));

    let mut headers = HeaderMap::new();
    let protocol = *source.one_of(&PROTOCOLS);
    headers.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(protocol),
    );
    if let Some(version) = websocket::negotiate(&headers) {
        let rest = source.rest();
        let _ = version.command_event(Message::binary(rest.to_vec()));
        let sent = version.encode(1, rest);
        let _ = version.command_event(sent);
    }
});
