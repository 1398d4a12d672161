//! Shells on nodes, in the page's terminal.
//!
//! A shell is `rkube ssh` in a pseudo-terminal. The protocol is that of the API server's exec
//! endpoint: the first byte of a message is its channel: 0 for input, 1 for output, 3 for the end,
//! 4 for the size.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;

use futures::{SinkExt, StreamExt};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;

use crate::socket::Socket;

/// The WebSocket protocol that the page offers.
pub const PROTOCOL: &str = "v5.channel.k8s.io";

const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const END: u8 = 3;
const SIZE: u8 = 4;

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Runs `command` for the page until it ends or the page disconnects.
pub async fn serve(command: Command, mut socket: Socket) {
    let ended = match run(command, &mut socket).await {
        Ok(ended) => ended,
        Err(e) => serde_json::json!({ "status": "Failure", "message": e.to_string() }).to_string(),
    };
    let mut message = vec![END];
    message.extend_from_slice(ended.as_bytes());
    // The page may have disconnected.
    let _ = socket.send(Message::binary(message)).await;
    let _ = socket.close(None).await;
}

async fn run(mut command: Command, socket: &mut Socket) -> std::io::Result<String> {
    let OpenptyResult { master, slave } = openpty(None, None)?;
    command
        .stdin(Stdio::from(slave.try_clone()?))
        .stdout(Stdio::from(slave.try_clone()?))
        .stderr(Stdio::from(slave))
        .env("TERM", "xterm-256color")
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    // Only the child may keep the other end of the terminal open.
    drop(command);
    let pid = child.id();
    nix::fcntl::fcntl(
        master.as_raw_fd(),
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )?;
    // SAFETY: an owned descriptor stays open and unchanged for the life of its owner.
    let master = unsafe { AsyncFd::register(master) }?;
    let mut buffer = [0; 16 << 10];
    loop {
        tokio::select! {
            read = read(&master, &mut buffer[1..]) => match read {
                Ok(n @ 1..) => {
                    buffer[0] = OUTPUT;
                    let message = Message::binary(bytes::Bytes::copy_from_slice(&buffer[..=n]));
                    if socket.send(message).await.is_err() {
                        return Ok(String::new());
                    }
                }
                // EIO means that the terminal's other end is closed.
                _ => break,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Binary(message))) => match message.split_first() {
                    Some((&INPUT, data)) => write(&master, data).await?,
                    Some((&SIZE, data)) => if let Ok(size) = serde_json::from_slice::<Size>(data) {
                        resize(&master, pid, &size)?;
                    },
                    _ => {}
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(String::new()),
                Some(Ok(_)) => {}
            },
        }
    }
    let status = child.wait().await?;
    Ok(if status.success() {
        serde_json::json!({ "status": "Success" }).to_string()
    } else {
        serde_json::json!({ "status": "Failure", "message": status.to_string() }).to_string()
    })
}

async fn read(master: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> std::io::Result<usize> {
    master
        .async_io(tokio::io::Interest::READABLE, |fd| {
            Ok(nix::unistd::read(fd.as_raw_fd(), buffer)?)
        })
        .await
}

async fn write(master: &AsyncFd<OwnedFd>, mut data: &[u8]) -> std::io::Result<()> {
    while !data.is_empty() {
        let n = master
            .async_io(tokio::io::Interest::WRITABLE, |fd| {
                Ok(nix::unistd::write(fd, data)?)
            })
            .await?;
        data = &data[n..];
    }
    Ok(())
}

/// Sets the terminal's size and signals it to the child. The kernel does not, because the
/// terminal is not the child's controlling one.
fn resize(master: &AsyncFd<OwnedFd>, pid: Option<u32>, size: &Size) -> std::io::Result<()> {
    let size = Winsize {
        ws_row: size.height.clamp(1, 1000),
        ws_col: size.width.clamp(1, 1000),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open, and the request takes this structure.
    unsafe { set_size(master.get_ref().as_raw_fd(), &raw const size) }?;
    if let Some(pid) = pid.and_then(|p| i32::try_from(p).ok()) {
        // The child may have ended.
        let _ = kill(Pid::from_raw(pid), Signal::SIGWINCH);
    }
    Ok(())
}
