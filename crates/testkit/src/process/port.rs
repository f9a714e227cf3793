//! Ports for programs that cannot choose one themselves.

use std::io;
use std::net::{SocketAddr, TcpListener};

/// A port of the loopback address that nobody else gets while this value lives.
///
/// Prefer letting the child bind port 0 and say which it got; this is for programs that cannot.
#[derive(Debug)]
pub struct ReservedPort {
    listener: TcpListener,
    addr: SocketAddr,
}

impl ReservedPort {
    /// Takes a free port.
    pub fn new() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Gives the port up, right before the child that is to bind it starts.
    pub fn release(self) -> SocketAddr {
        drop(self.listener);
        self.addr
    }
}
