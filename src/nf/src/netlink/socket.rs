//! The netlink socket: requests, acknowledgements and dumps.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, send,
    socket,
};
use parking_lot::Mutex;

use super::message::{Attributes, HEADER, Writer, ne32, text};
use super::netns::in_netns;

/// Attribute of an extended acknowledgement: the reason as text (`enum nlmsgerr_attrs`).
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Size of the receive buffer. The kernel sends no larger message; dumps arrive in parts of 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// An error response of the kernel to a request.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {}{}", errno.desc(), detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
pub struct NetlinkError {
    /// The request, as in `cannot create bridge rk0`.
    pub action: String,
    /// The error code.
    pub errno: Errno,
    /// The kernel's explanation (extended acknowledgement), if any.
    pub detail: Option<String>,
}

impl NetlinkError {
    /// Returns an error of `action` without an explanation.
    pub fn new(action: impl Into<String>, errno: Errno) -> Self {
        Self {
            action: action.into(),
            errno,
            detail: None,
        }
    }

    /// Returns whether the object of the request does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno,
            Errno::ENODEV | Errno::ESRCH | Errno::ENOENT | Errno::EADDRNOTAVAIL | Errno::ENXIO
        )
    }

    /// Returns whether the object to be created already exists.
    pub fn is_exists(&self) -> bool {
        self.errno == Errno::EEXIST
    }
}

/// A rejection of one message, before it is put into context by [`Refusal::because`].
#[derive(Debug)]
pub struct Refusal {
    /// Sequence number of the rejected message; zero if the call failed locally.
    pub seq: u32,
    /// The error code.
    pub errno: Errno,
    /// The kernel's explanation (extended acknowledgement), if any.
    pub detail: Option<String>,
}

impl Refusal {
    /// Converts the rejection to an error of `action`.
    pub fn because(self, action: impl Into<String>) -> NetlinkError {
        NetlinkError {
            action: action.into(),
            errno: self.errno,
            detail: self.detail,
        }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self {
            seq: 0,
            errno,
            detail: None,
        }
    }
}

/// A netlink socket of any protocol. Concurrent calls are serialized.
pub struct Socket {
    fd: OwnedFd,
    state: Mutex<State>,
}

/// The last sequence number and the receive buffer.
struct State {
    seq: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: SockProtocol) -> Result<Self, Errno> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // Request short acknowledgements with the reason as text. Both options only improve error
        // messages, so failures are ignored.
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            let on: libc::c_int = 1;
            // SAFETY: `fd` is an open socket and `on` outlives the call.
            unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                );
            }
        }
        Ok(Self {
            fd,
            state: Mutex::new(State {
                seq: 0,
                buffer: Vec::new(),
            }),
        })
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn request(
        &self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer),
    ) -> Result<(), Refusal> {
        self.query(kind, flags, body, |_, _| None::<()>).map(drop)
    }

    /// Sends one request and passes each message before its acknowledgement to `each`. Returns the
    /// result of the last call of `each`.
    pub fn query<T>(
        &self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer),
        mut each: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let mut state = self.state.lock();
        state.seq = state.seq.wrapping_add(1);
        let seq = state.seq;
        let mut writer = Writer::new();
        writer.message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, seq, body);
        self.send(writer.as_bytes())?;
        let (mut done, mut found) = (false, None);
        while !done {
            self.receive(&mut state, |message| {
                if message.seq != seq {
                    return Ok(());
                }
                if message.kind == NLMSG_ERROR {
                    done = true;
                    return message.acknowledgement();
                }
                found = each(message.kind, message.payload);
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Sends a dump request and passes the type and payload of each response to `each`. Repeats the
    /// dump at most four times if a concurrent change made it inconsistent, then returns the
    /// inconsistent result.
    pub fn dump<T>(
        &self,
        kind: u16,
        body: impl Fn(&mut Writer),
        mut each: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        let mut state = self.state.lock();
        // On a busy system, every attempt may be inconsistent. The last result is returned anyway.
        for attempt in 0.. {
            let (found, torn) = self.dump_once(&mut state, kind, &body, &mut each)?;
            if !torn || attempt == 4 {
                return Ok(found);
            }
        }
        unreachable!("the loop above returns")
    }

    /// Requests a dump once. Also returns whether it was interrupted by changes.
    fn dump_once<T>(
        &self,
        state: &mut State,
        kind: u16,
        body: impl Fn(&mut Writer),
        mut each: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<(Vec<T>, bool), Refusal> {
        state.seq = state.seq.wrapping_add(1);
        let seq = state.seq;
        let mut writer = Writer::new();
        writer.message(kind, NLM_F_REQUEST | NLM_F_DUMP, seq, body);
        self.send(writer.as_bytes())?;
        let mut found = Vec::new();
        let (mut done, mut torn) = (false, false);
        while !done {
            self.receive(state, |message| {
                if message.seq != seq {
                    return Ok(());
                }
                torn |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE => done = true,
                    NLMSG_ERROR => {
                        done = true;
                        return message.acknowledgement();
                    }
                    other => found.extend(each(other, message.payload)),
                }
                Ok(())
            })?;
        }
        Ok((found, torn))
    }

    /// Sends a batch and waits for the acknowledgement of the last message before its end. On a
    /// rejection, returns the first one with the message's position in the batch.
    ///
    /// `write` receives the first sequence number. It returns the messages, numbered from there,
    /// and their count. The first message must begin the batch and the last must end it. Of the
    /// others, only the last requests an acknowledgement. Without others, nothing is sent.
    pub fn batch(&self, write: impl FnOnce(u32) -> (Writer, u32)) -> Result<(), (Refusal, u32)> {
        let mut state = self.state.lock();
        let first = state.seq.wrapping_add(1);
        let (writer, count) = write(first);
        state.seq = state.seq.wrapping_add(count);
        if count < 3 {
            // An empty batch, which the kernel would not acknowledge.
            return Ok(());
        }
        self.grow_buffers(writer.len())
            .map_err(|errno| (errno.into(), 0))?;
        self.send(writer.as_bytes())
            .map_err(|errno| (errno.into(), 0))?;
        let mut done = false;
        while !done {
            let received = self.receive(&mut state, |message| {
                let place = message.seq.wrapping_sub(first);
                if message.kind == NLMSG_ERROR && place < count {
                    done |= place == count - 2;
                    return message.acknowledgement();
                }
                Ok(())
            });
            if let Err(refusal) = received {
                // The kernel answered the whole batch before `send` returned. Discard the remaining
                // responses, or the next call would read them.
                self.drain(&mut state);
                let place = refusal.seq.wrapping_sub(first);
                return Err((refusal, place));
            }
        }
        Ok(())
    }

    /// Discards all queued responses.
    fn drain(&self, state: &mut State) {
        loop {
            let got = nix::sys::socket::recv(
                self.fd.as_raw_fd(),
                &mut state.buffer,
                MsgFlags::MSG_DONTWAIT,
            );
            match got {
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    /// Sizes the socket buffers for a batch of `need` bytes and its responses. Requires
    /// `CAP_NET_ADMIN`.
    fn grow_buffers(&self, need: usize) -> Result<(), Errno> {
        let size = libc::c_int::try_from(need + 64 * 1024).map_err(|_| Errno::EMSGSIZE)?;
        for option in [libc::SO_SNDBUFFORCE, libc::SO_RCVBUFFORCE] {
            // SAFETY: the socket is open and `size` outlives the call.
            let result = unsafe {
                libc::setsockopt(
                    self.fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const size).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            Errno::result(result)?;
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Receives one datagram and passes its messages to `each` until that returns an error.
    fn receive(
        &self,
        state: &mut State,
        each: impl FnMut(Received<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        state.buffer.resize(RECEIVE_BUFFER, 0);
        let length = loop {
            let mut parts = [IoSliceMut::new(&mut state.buffer)];
            match recvmsg::<NetlinkAddr>(self.fd.as_raw_fd(), &mut parts, None, MsgFlags::empty()) {
                Ok(got) => {
                    // Only messages of the kernel (port 0) are trusted.
                    if got.address.is_some_and(|from| from.pid() != 0) {
                        continue;
                    }
                    if got.flags.contains(MsgFlags::MSG_TRUNC) {
                        return Err(Errno::EMSGSIZE.into());
                    }
                    break got.bytes;
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        each_message(&state.buffer[..length], each)
    }
}

/// Passes the messages of a datagram to `each` until that returns an error.
pub(super) fn each_message(
    mut rest: &[u8],
    mut each: impl FnMut(Received<'_>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    while rest.len() >= HEADER {
        let size = ne32(rest) as usize;
        if size < HEADER || size > rest.len() {
            return Err(Errno::EBADMSG.into());
        }
        let message = Received {
            kind: u16::from_ne_bytes([rest[4], rest[5]]),
            flags: u16::from_ne_bytes([rest[6], rest[7]]),
            seq: ne32(&rest[8..]),
            payload: &rest[HEADER..size],
        };
        each(message)?;
        rest = &rest[size.next_multiple_of(4).min(rest.len())..];
    }
    Ok(())
}

/// A received message.
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    flags: u16,
    seq: u32,
    pub(super) payload: &'a [u8],
}

impl Received<'_> {
    /// Converts an `NLMSG_ERROR` message to a result; code zero is an acknowledgement.
    pub(super) fn acknowledgement(&self) -> Result<(), Refusal> {
        let code = ne32(self.payload) as i32;
        if code == 0 {
            return Ok(());
        }
        // The error code is followed by the header of the rejected message, and by its body unless
        // the kernel capped it. Then follow attributes with the reason as text.
        let mut detail = None;
        if self.flags & NLM_F_ACK_TLVS != 0 {
            let body = if self.flags & NLM_F_CAPPED != 0 {
                HEADER
            } else {
                (self.payload.get(4..).map_or(0, ne32) as usize).next_multiple_of(4)
            };
            detail = self.payload.get(4 + body..).and_then(|rest| {
                Attributes(rest)
                    .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
                    .map(|(_, v)| text(v))
            });
        }
        Err(Refusal {
            seq: self.seq,
            errno: Errno::from_raw(code.wrapping_neg()),
            detail,
        })
    }
}

/// An rtnetlink connection for the interfaces, addresses and routes of one network namespace. It
/// keeps the namespace that it was opened in, whichever thread uses it later.
pub struct Netlink {
    pub(super) socket: Socket,
}

impl Netlink {
    /// Opens a connection in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Socket::open(SockProtocol::NetlinkRoute)
            .map(|socket| Self { socket })
            .map_err(|errno| NetlinkError::new("cannot open a netlink socket", errno))
    }

    /// Opens a connection in the network namespace that `netns` refers to.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self, NetlinkError> {
        in_netns(netns, Self::open)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_code_of_a_refusal_is_an_error() {
        for (code, errno) in [
            (0, None),
            (-libc::ENOENT, Some(Errno::ENOENT)),
            // No kernel sends these.
            (libc::ENOENT, Some(Errno::UnknownErrno)),
            (i32::MIN, Some(Errno::UnknownErrno)),
        ] {
            let mut writer = Writer::new();
            writer.message(NLMSG_ERROR, 0, 1, |w| w.raw(&code.to_ne_bytes()));
            let read = each_message(writer.as_bytes(), |message| message.acknowledgement());
            assert_eq!(read.err().map(|refusal| refusal.errno), errno, "{code}");
        }
    }
}
