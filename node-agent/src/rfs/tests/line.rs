//! What goes over the line between two ends.

use super::*;
use std::io::Read;

/// Copies what comes from one to the other until that ends; all of it.
fn pump(mut from: TcpStream, mut to: TcpStream) -> std_mpsc::Receiver<Vec<u8>> {
    aside(move || {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..n]);
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
        seen
    })
}

/// Both ends' handshakes, and a frame from the one that connected: what the other one received, and what was on the line.
fn said(is_open: bool) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let tmp = tempfile::tempdir()?;
    identities(tmp.path());
    let identity = |me: &str, peer| super::super::tls::Identity::load(&tmp.path().join(me).join("identity"), peer, "lab");
    let (here, there) = (identity("n1", "n2")?.without_cipher(is_open), identity("n2", "n1")?.without_cipher(is_open));
    let (listener, tap) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let (to, at) = (listener.local_addr()?, tap.local_addr()?);
    let sent = aside(move || {
        let link = Link::connect(TcpStream::connect(at).unwrap(), &there, LONG, 1, 1)?;
        link.send(7, &Msg::Op(super::super::frame::Op::Logged { count: 3 }), b"contents")?;
        anyhow::Ok(link)
    });
    let (guest, host) = (tap.accept()?.0, TcpStream::connect(to)?);
    let seen = pump(guest.try_clone()?, host.try_clone()?);
    let _answers = pump(host, guest);
    let link = Link::accept(listener.accept()?.0, &here, 1, 1)?;
    let there = sent.recv_timeout(LONG)??;
    let mut inbox = Inbox::new(link);
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        if let Some(frame) = inbox.receive()? {
            let data = frame.data.to_vec();
            there.close();
            return Ok((data, seen.recv_timeout(LONG)?));
        }
    }
    anyhow::bail!("nothing came")
}

#[test]
fn a_line_carries_what_is_sent_and_only_without_a_cipher_it_can_be_read_there() {
    for is_open in [false, true] {
        let (received, on_the_line) = said(is_open).unwrap();
        assert_eq!(received, b"contents");
        let can_be_read = on_the_line.windows(8).any(|bytes| bytes == b"contents");
        assert_eq!(can_be_read, is_open, "{} bytes on the line", on_the_line.len());
    }
}
