use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::Session;
use crate::logins::Limits;
use crate::{Server, SshConfig, SshError, keys};

struct Fixture {
    dir: tempfile::TempDir,
    addr: std::net::SocketAddr,
    host_key: String,
}

impl Fixture {
    async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    async fn start_with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host_key = keys::generate_files(&dir.path().join("host"), "host").unwrap();
        let public = keys::generate_files(&dir.path().join("id"), "me").unwrap();
        std::fs::write(dir.path().join("authorized_keys"), format!("{public}\n")).unwrap();
        keys::generate_files(&dir.path().join("stranger"), "stranger").unwrap();
        let mut server = Server::bind(SshConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            host_key_path: dir.path().join("host"),
            authorized_keys_path: dir.path().join("authorized_keys"),
            shell: "/bin/bash".into(),
            env: vec![("RKUBE_NODE".into(), "n1".into())],
            motd: None,
        })
        .await
        .unwrap();
        server.limits = limits;
        let addr = server.local_addr().unwrap();
        tokio::spawn(server.run());
        Self {
            dir,
            addr,
            host_key,
        }
    }

    async fn connect(&self, key: &str, host_key: &str) -> Result<Session, SshError> {
        Session::connect(self.addr, "root", &self.dir.path().join(key), host_key).await
    }

    async fn session(&self) -> Session {
        self.connect("id", &self.host_key).await.unwrap()
    }

    fn openssh(&self, program: &str) -> Option<tokio::process::Command> {
        let path = format!("/usr/bin/{program}");
        if !Path::new(&path).exists() {
            rkube_testing::skipped(&format!("no {path} on this machine"));
            return None;
        }
        let mut command = tokio::process::Command::new(path);
        let port = if program == "scp" { "-P" } else { "-p" };
        command
            .arg("-F")
            .arg("/dev/null")
            .arg("-i")
            .arg(self.dir.path().join("id"))
            .args(["-o", "StrictHostKeyChecking=no", "-o", "IdentitiesOnly=yes"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .arg(port)
            .arg(self.addr.port().to_string())
            .stdin(Stdio::null());
        Some(command)
    }
}

async fn run(session: &Session, command: &str, stdin: Option<&[u8]>) -> (i32, Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = session
        .exec(command, stdin, &mut out, &mut err)
        .await
        .unwrap();
    (code, out, err)
}

#[test]
fn key_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("id");
    let public = keys::generate_files(&path, "a comment").unwrap();
    assert!(public.starts_with("ssh-ed25519 ") && public.ends_with(" a comment"));
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    keys::read_private(&path).unwrap();
    assert_eq!(
        keys::authorized(&format!(
            "# hi\n\n{public}\ncommand=\"x\" {public}\ngarbage\n"
        ))
        .len(),
        1
    );
}

#[tokio::test]
async fn exec_keeps_streams_and_codes_apart() {
    let f = Fixture::start().await;
    let s = f.session().await;
    assert_eq!(
        run(&s, "echo out; echo err >&2; echo $RKUBE_NODE; exit 3", None).await,
        (3, b"out\nn1\n".to_vec(), b"err\n".to_vec())
    );
    let big: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
    let (code, out, _) = run(&s, "cat", Some(&big)).await;
    assert_eq!(code, 0);
    assert!(out == big);
    assert_eq!(run(&s, "kill -TERM $$", None).await.0, 128 + 15);
}

#[tokio::test]
async fn strangers_and_impostors_are_refused() {
    let f = Fixture::start().await;
    assert!(matches!(
        f.connect("stranger", &f.host_key).await.err(),
        Some(SshError::Refused(_))
    ));
    let other = keys::generate("other").unwrap().public;
    assert!(matches!(
        f.connect("id", &other).await.err(),
        Some(SshError::HostKey(_))
    ));
}

#[tokio::test]
async fn forwards_a_port() {
    let f = Fixture::start().await;
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = echo.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut s, _) = echo.accept().await.unwrap();
        let mut all = Vec::new();
        s.read_to_end(&mut all).await.unwrap();
        s.write_all(&all).await.unwrap();
    });
    let local = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local_addr = local.local_addr().unwrap();
    let s = f.session().await;
    tokio::spawn(async move { s.forward(local, "127.0.0.1", target.port()).await });
    let mut c = tokio::net::TcpStream::connect(local_addr).await.unwrap();
    c.write_all(b"over ssh").await.unwrap();
    c.shutdown().await.unwrap();
    let mut back = String::new();
    c.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "over ssh");
}

#[tokio::test]
async fn openssh_runs_commands_with_and_without_a_terminal() {
    let f = Fixture::start().await;
    let Some(mut plain) = f.openssh("ssh") else {
        return;
    };
    let out = plain
        .args(["root@127.0.0.1", "echo out; echo err >&2; exit 4"])
        .output()
        .await
        .unwrap();
    assert_eq!(out.status.code(), Some(4));
    assert_eq!(
        (out.stdout.as_slice(), out.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let out = f
        .openssh("ssh")
        .unwrap()
        .env("TERM", "vt220")
        .args(["-tt", "root@127.0.0.1", "test -t 0 && echo $TERM"])
        .output()
        .await
        .unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(out.stdout, b"vt220\r\n");
    let mut shell = f
        .openssh("ssh")
        .unwrap()
        .args(["-tt", "root@127.0.0.1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(b"echo $((40+2))\nexit 5\n").await.unwrap();
    let out = shell.wait_with_output().await.unwrap();
    assert_eq!(out.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&out.stdout).contains("42"));
}

#[tokio::test]
async fn scp_copies_both_ways() {
    let f = Fixture::start().await;
    let Some(mut up) = f.openssh("scp") else {
        return;
    };
    let (here, there, back) = (
        f.dir.path().join("here"),
        f.dir.path().join("there"),
        f.dir.path().join("back"),
    );
    std::fs::write(&here, vec![7; 300_000]).unwrap();
    let status = up
        .arg("-O")
        .arg(&here)
        .arg(format!("root@127.0.0.1:{}", there.display()))
        .status()
        .await
        .unwrap();
    assert!(status.success());
    let status = f
        .openssh("scp")
        .unwrap()
        .arg("-O")
        .arg(format!("root@127.0.0.1:{}", there.display()))
        .arg(&back)
        .status()
        .await
        .unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read(back).unwrap(), vec![7; 300_000]);
}

#[test]
fn signals_have_the_numbers_of_the_system() {
    use crate::number as n;
    for (ours, theirs) in [
        (n::SIGHUP, libc::SIGHUP),
        (n::SIGINT, libc::SIGINT),
        (n::SIGQUIT, libc::SIGQUIT),
        (n::SIGILL, libc::SIGILL),
        (n::SIGTRAP, libc::SIGTRAP),
        (n::SIGABRT, libc::SIGABRT),
        (n::SIGBUS, libc::SIGBUS),
        (n::SIGFPE, libc::SIGFPE),
        (n::SIGKILL, libc::SIGKILL),
        (n::SIGUSR1, libc::SIGUSR1),
        (n::SIGSEGV, libc::SIGSEGV),
        (n::SIGUSR2, libc::SIGUSR2),
        (n::SIGPIPE, libc::SIGPIPE),
        (n::SIGALRM, libc::SIGALRM),
        (n::SIGTERM, libc::SIGTERM),
        (n::SIGCONT, libc::SIGCONT),
        (n::SIGSTOP, libc::SIGSTOP),
        (n::SIGTSTP, libc::SIGTSTP),
        (n::SIGWINCH, libc::SIGWINCH),
        (n::SIGSYS, libc::SIGSYS),
    ] {
        assert_eq!(ours, theirs);
    }
}

/// Reads until the server closes the connection. Returns what it sent.
async fn read_all(mut stream: tokio::net::TcpStream) -> Vec<u8> {
    let mut text = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut text).await;
    text
}

#[tokio::test]
async fn connections_without_a_login_are_limited() {
    let f = Fixture::start_with(Limits {
        all: 2,
        per_address: 2,
        ..Limits::default()
    })
    .await;
    // Those who have logged in do not count.
    let (one, two) = (f.session().await, f.session().await);
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut stream = tokio::net::TcpStream::connect(f.addr).await.unwrap();
        // The server has counted it when it speaks.
        stream.read_u8().await.unwrap();
        idle.push(stream);
    }
    let refused = tokio::net::TcpStream::connect(f.addr).await.unwrap();
    assert!(read_all(refused).await.is_empty());
    for session in [&one, &two] {
        assert_eq!(run(session, "echo hi", None).await.1, b"hi\n");
    }
    drop(idle);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while f.connect("id", &f.host_key).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the ended ones count");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn who_does_not_log_in_is_disconnected() {
    let f = Fixture::start_with(Limits {
        // The login must fit into it, also on a busy machine.
        time: std::time::Duration::from_secs(10),
        ..Limits::default()
    })
    .await;
    let session = f.session().await;
    let idle = async |greeting: &str| {
        let mut stream = tokio::net::TcpStream::connect(f.addr).await.unwrap();
        stream.write_all(greeting.as_bytes()).await.unwrap();
        assert!(read_all(stream).await.starts_with(b"SSH-2.0-"));
    };
    tokio::join!(idle(""), idle("SSH-2.0-idle\r\n"));
    // Meanwhile, the time of a login is over for the one who did log in.
    assert_eq!(run(&session, "echo hi", None).await.1, b"hi\n");
}
