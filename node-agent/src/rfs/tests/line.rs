//! What goes over the line between two ends.

use super::*;

/// Both ends' handshakes, and a frame from the one that connected: what the other one received.
fn said(is_open: bool) -> anyhow::Result<Vec<u8>> {
    let tmp = tempfile::tempdir()?;
    identities(tmp.path());
    let identity = |me: &str, peer| super::super::tls::Identity::load(&tmp.path().join(me).join("identity"), peer, "lab");
    let (here, there) = (identity("n1", "n2")?.without_cipher(is_open), identity("n2", "n1")?.without_cipher(is_open));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    let sent = aside(move || {
        let link = Link::connect(TcpStream::connect(at).unwrap(), &there, LONG, 1, 1)?;
        link.send(7, &Msg::Op(super::super::frame::Op::Logged { count: 3 }), b"contents")?;
        anyhow::Ok(link)
    });
    let link = Link::accept(listener.accept()?.0, &here, 1, 1)?;
    let _there = sent.recv_timeout(LONG)?;
    let mut inbox = Inbox::new(link);
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        if let Some(frame) = inbox.receive()? {
            return Ok(frame.data.to_vec());
        }
    }
    anyhow::bail!("nothing came")
}

#[test]
fn a_line_without_cipher_carries_the_same() {
    assert_eq!(said(false).unwrap(), b"contents");
    assert_eq!(said(true).unwrap(), b"contents");
}
