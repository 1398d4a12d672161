//! The addresses of services of type ExternalName: asked of the cluster's DNS, as pods do, and never
//! those of the node itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// The time limit of one question.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a question is asked that got no answer.
const ATTEMPTS: usize = 2;

/// Whether an address is of the host that uses it, or of its link: ports there are open to the node
/// only, and so are servers with the node's credentials.
pub fn is_special(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.octets()[0] == 0 || ip.is_link_local() || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            let embedded = ip.to_ipv4().map(IpAddr::V4);
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || embedded.is_some_and(is_special)
        }
    }
}

/// Returns the addresses of this node's interfaces.
fn own_addresses() -> Result<Vec<IpAddr>, String> {
    let interfaces = nix::ifaddrs::getifaddrs();
    let interfaces = interfaces.map_err(|e| format!("cannot list the node's addresses: {e}"))?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    Ok(addresses.collect())
}

/// Returns where an external name leads outside the node.
///
/// # Errors
///
/// Says why it leads nowhere.
pub async fn outside(name: &str, port: u16, dns: SocketAddr) -> Result<Vec<SocketAddr>, String> {
    let mut found = match name.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => resolve(name, dns).await?,
    };
    let own = own_addresses()?;
    found.retain(|ip| !is_special(*ip) && !own.contains(&ip.to_canonical()));
    if found.is_empty() {
        return Err(format!("{name} has no address outside the node"));
    }
    Ok(found.into_iter().map(|ip| (ip, port).into()).collect())
}

/// The types of records with addresses, IPv4 first (RFC 1035 and 3596).
const ADDRESS_TYPES: [u16; 2] = [1, 28];

/// Asks a server for the addresses of a name, which is complete.
async fn resolve(name: &str, dns: SocketAddr) -> Result<Vec<IpAddr>, String> {
    for kind in ADDRESS_TYPES {
        let (id, query) = query(name, kind).ok_or_else(|| format!("{name} is no DNS name"))?;
        let found = ask(&query, id, dns).await;
        let found = found.map_err(|e| format!("cannot resolve {name}: {e}"))?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(format!("{name} has no address"))
}

/// Returns a query and its ID.
fn query(name: &str, kind: u16) -> Option<(u16, Vec<u8>)> {
    let id: u16 = rand::random();
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion is desired; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|n| (1..64).contains(n))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    (name.len() < 255).then_some((id, bytes))
}

async fn ask(query: &[u8], id: u16, dns: SocketAddr) -> io::Result<Vec<IpAddr>> {
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..ATTEMPTS {
        match tokio::time::timeout(ATTEMPT_TIMEOUT, exchange(query, id, dns)).await {
            Ok(Ok(answer)) => {
                return addresses(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

async fn exchange(query: &[u8], id: u16, dns: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = match dns {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(dns).await?;
    socket.send(query).await?;
    let mut bytes = vec![0; 4096];
    loop {
        let n = socket.recv(&mut bytes).await?;
        // Not the answer to another question.
        if n >= HEADER && bytes[..2] == id.to_be_bytes() && bytes[2] & 0x80 != 0 {
            bytes.truncate(n);
            break;
        }
    }
    let truncated = bytes[2] & 2 != 0;
    if !truncated {
        return Ok(bytes);
    }
    let mut stream = TcpStream::connect(dns).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(query).await?;
    let mut bytes = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The size in bytes of a message's header.
const HEADER: usize = 12;

/// Returns the addresses in an answer: the server has followed aliases already. `None` if it cannot
/// be read.
fn addresses(message: &[u8]) -> Option<Vec<IpAddr>> {
    let number = |at: usize| {
        let bytes = message.get(at..at + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let (questions, answers) = (number(4)?, number(6)?);
    let mut at = HEADER;
    for _ in 0..questions {
        at = after_name(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        at = after_name(message, at)?;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        if ADDRESS_TYPES.contains(&kind) {
            let v4 = <[u8; 4]>::try_from(data).map(IpAddr::from);
            found.push(
                v4.or_else(|_| <[u8; 16]>::try_from(data).map(IpAddr::from))
                    .ok()?,
            );
        }
        at += 10 + length;
    }
    Some(found)
}

/// Returns the place after a name, which may end with a reference to another one.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_node_and_its_link_are_special() {
        for (ip, special) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("0.0.0.0", true),
            ("169.254.169.254", true),
            ("::1", true),
            ("::", true),
            ("fe80::1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:169.254.169.254", true),
            ("10.0.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_special(ip.parse().unwrap()), special, "{ip}");
        }
    }

    #[tokio::test]
    async fn names_are_asked_of_the_given_server() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dns = server.local_addr().unwrap();
        tokio::spawn(async move {
            let mut bytes = [0; 512];
            loop {
                let (n, from) = server.recv_from(&mut bytes).await.unwrap();
                let mut answer = bytes[..n].to_vec();
                answer[2] |= 0x80;
                answer[7] = 3;
                let first = u8::from(answer[13] == b'd') * 10;
                // An alias of the question's name, and two addresses.
                answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 2, 0xc0, 12]);
                let address = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4];
                answer.extend(address.into_iter().chain([first, 1, 2, 3]));
                answer.extend(address.into_iter().chain([127, 0, 0, 1]));
                server.send_to(&answer, from).await.unwrap();
            }
        });
        let found = outside("db.default.svc.cluster.local", 80, dns).await;
        assert_eq!(found.unwrap(), ["10.1.2.3:80".parse().unwrap()]);
        let own = outside("own.test", 80, dns).await.unwrap_err();
        assert!(own.contains("no address outside the node"), "{own}");
        for own in own_addresses().unwrap() {
            outside(&own.to_string(), 80, dns).await.unwrap_err();
        }
        for broken in [&b""[..], &[0; 7], &[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9]] {
            assert_eq!(addresses(broken), None);
        }
    }
}
