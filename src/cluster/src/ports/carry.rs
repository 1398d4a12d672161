//! Connections and datagrams between a port of this machine and an address that it reaches.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Time without datagrams after which a client of UDP is forgotten.
const UDP_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of clients of a UDP port.
const MAX_CLIENTS: usize = 1024;
/// Delay after the system cannot accept a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum size of a datagram in bytes.
const DATAGRAM: usize = 65_535;

/// Leads connections to `to` until the future is dropped.
pub(super) async fn tcp(listener: TcpListener, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            // Whatever ends a connection concerns its two ends only.
            if let Ok(mut server) = TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

/// Leads datagrams to `to`, and answers back to their clients, until the future is dropped.
pub(super) async fn udp(socket: UdpSocket, to: SocketAddr) {
    let socket = Arc::new(socket);
    let (ended, mut gone) = mpsc::unbounded_channel();
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            Some(client) = gone.recv() => {
                clients.remove(&client);
                while tasks.try_join_next().is_some() {}
            }
            received = socket.recv_from(&mut buffer) => {
                // An error is the answer to an earlier datagram.
                let Ok((length, client)) = received else { continue };
                let server = match clients.get(&client) {
                    Some(server) => server.clone(),
                    None if clients.len() >= MAX_CLIENTS => continue,
                    None => {
                        let Ok(server) = connect(to).await else { continue };
                        let server = Arc::new(server);
                        clients.insert(client, server.clone());
                        tasks.spawn(answer(socket.clone(), server.clone(), client, ended.clone()));
                        server
                    }
                };
                // Lost like any other datagram.
                let _ = server.send(&buffer[..length]).await;
            }
        }
    }
}

async fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let server = UdpSocket::bind(any).await?;
    server.connect(to).await?;
    Ok(server)
}

/// Returns answers to a client until there are none for a while.
async fn answer(
    socket: Arc<UdpSocket>,
    server: Arc<UdpSocket>,
    client: SocketAddr,
    ended: mpsc::UnboundedSender<SocketAddr>,
) {
    let mut buffer = vec![0; DATAGRAM];
    while let Ok(received) = timeout(UDP_TIMEOUT, server.recv(&mut buffer)).await {
        // An error says that the server's port is closed, perhaps only now.
        if let Ok(length) = received {
            let _ = socket.send_to(&buffer[..length], client).await;
        }
    }
    // The port may be closed already.
    let _ = ended.send(client);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn connections_and_datagrams_are_carried() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = server.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            stream
                .write_all(text.to_uppercase().as_bytes())
                .await
                .unwrap();
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(tcp(listener, to));
        let mut client = TcpStream::connect(at).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        // The end of one direction is carried, too.
        client.shutdown().await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "HELLO");

        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = server.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 100];
            loop {
                let (length, from) = server.recv_from(&mut buffer).await.unwrap();
                server.send_to(&buffer[..length], from).await.unwrap();
            }
        });
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(udp(socket, to));
        for word in ["one", "two"] {
            let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            client.connect(at).await.unwrap();
            client.send(word.as_bytes()).await.unwrap();
            let mut buffer = [0; 100];
            let length = client.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], word.as_bytes());
        }
    }
}
