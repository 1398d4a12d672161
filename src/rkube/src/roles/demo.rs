//! Programs of the built-in demo images.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

/// Port on which `kubia` listens.
const PORT: u16 = 8080;
/// The time that a client may take to send its request.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of retries of `lookup`, and the delay between attempts.
const LOOKUP_TRIES: u32 = 100;
const LOOKUP_PAUSE: Duration = Duration::from_millis(50);

/// Runs `rkube demo <program>`.
pub fn run(args: &[OsString]) -> anyhow::Result<()> {
    match args.first().and_then(|a| a.to_str()) {
        Some("kubia") => kubia(),
        Some("lookup") => match args.get(1).and_then(|a| a.to_str()) {
            Some(name) => lookup(name),
            None => bail!("lookup needs a name to look up"),
        },
        _ => bail!("the demo programs are: kubia, lookup NAME"),
    }
}

/// Prints the addresses of a name. Retries, because the DNS record may not exist yet.
fn lookup(name: &str) -> anyhow::Result<()> {
    use std::net::ToSocketAddrs;
    for attempt in 0.. {
        match (name, 0).to_socket_addrs() {
            Ok(found) => {
                for address in found {
                    println!("{}", address.ip());
                }
                return Ok(());
            }
            Err(e) if attempt >= LOOKUP_TRIES => {
                return Err(e).with_context(|| format!("cannot look up {name}"));
            }
            Err(_) => std::thread::sleep(LOOKUP_PAUSE),
        }
    }
    Ok(())
}

/// Serves HTTP; each response contains the pod's name.
fn kubia() -> anyhow::Result<()> {
    // PID 1 of a container ignores signals that have no handler. Without these handlers, `kubectl
    // delete` would wait for the grace period.
    // SAFETY: the handler only calls _exit, which is async-signal-safe.
    unsafe {
        use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
        let action = SigAction::new(
            SigHandler::Handler(leave),
            SaFlags::empty(),
            SigSet::empty(),
        );
        sigaction(Signal::SIGTERM, &action)?;
        sigaction(Signal::SIGINT, &action)?;
    }
    let name = nix::unistd::gethostname()
        .context("no host name")?
        .to_string_lossy()
        .into_owned();
    // Without IPv6 in the kernel, there is only the other one.
    let listener = TcpListener::bind(("::", PORT))
        .or_else(|_| TcpListener::bind(("0.0.0.0", PORT)))
        .with_context(|| format!("cannot listen on port {PORT}"))?;
    println!("Kubia server starting...");
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let name = name.clone();
        std::thread::spawn(move || answer(stream, &name));
    }
    Ok(())
}

extern "C" fn leave(_: libc::c_int) {
    // SAFETY: _exit(2) ends the process without running other code.
    unsafe { libc::_exit(0) }
}

fn answer(mut stream: TcpStream, name: &str) {
    let peer = stream
        .peer_addr()
        .map(|a| a.ip().to_canonical().to_string())
        .unwrap_or_default();
    let _ = stream.set_read_timeout(Some(READ_TIMEOUT));
    let Ok(reading) = stream.try_clone() else {
        return;
    };
    let mut lines = BufReader::new(reading).lines();
    while let Some(Ok(_)) = lines.by_ref().next() {
        // Headers end at the first empty line; one response per connection.
        if lines.by_ref().map_while(Result::ok).any(|l| l.is_empty()) {
            break;
        }
    }
    println!("Received request from {peer}");
    let body = format!("You've hit {name}\n");
    // The client may have closed the connection.
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}
