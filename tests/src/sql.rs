//! The same load against a real PostgreSQL, through its own client: one `psql` per connection, one transaction
//! per entry, acknowledged when `COMMIT` came back.

use crate::lab::{CLIENT, Lab, ns};
use crate::ledger::{Entry, NewEntry};
use crate::load::{Acked, Load};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Port of the protected PostgreSQL.
pub const PORT: u16 = 5432;
/// An answer is given up after this long, and the connection with it.
const ANSWER_BOUND: Duration = Duration::from_secs(2);
/// Between attempts to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The server listens soon after its module serves.
const PREPARE_BOUND: Duration = Duration::from_secs(30);

fn address(host: Ipv4Addr) -> String {
    format!("host={host} port={PORT} user=postgres dbname=postgres connect_timeout=2 tcp_user_timeout=2000 sslmode=disable")
}

/// Makes the table.
pub fn prepare(lab: &Lab, host: Ipv4Addr) -> Result<()> {
    let table = "CREATE TABLE IF NOT EXISTS entry (id bigserial PRIMARY KEY, client text NOT NULL, seq bigint NOT NULL, text text NOT NULL, \
                 UNIQUE (client, seq))";
    let begin = Instant::now();
    loop {
        let output = lab.exec(CLIENT, &["psql", &address(host), "-v", "ON_ERROR_STOP=1", "-qc", table])?;
        if output.status.success() {
            return Ok(());
        }
        if begin.elapsed() > PREPARE_BOUND {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// Writes from `net` with `connections` sessions at once.
pub fn start_load(net: &OwnedFd, host: Ipv4Addr, connections: usize) -> Result<Load> {
    let net = net.try_clone()?;
    Load::start_with(move |stop, acked| {
        let run: u64 = rand::random();
        std::thread::scope(|scope| {
            for number in 0..connections {
                let (net, stop, acked) = (&net, &stop, &acked);
                scope.spawn(move || write_on(net, host, &format!("load-{run:016x}-{number}"), stop, acked));
            }
        });
        Ok(())
    })
}

fn write_on(net: &OwnedFd, host: Ipv4Addr, client: &str, stop: &AtomicBool, acked: &Mutex<Vec<Acked>>) {
    if ns::enter(net).is_err() {
        return;
    }
    let mut seq = 1;
    let mut session = None;
    while !stop.load(Ordering::Relaxed) {
        let entry = NewEntry { client: client.to_owned(), seq, text: format!("entry {seq} of {client}") };
        let result = match session.take() {
            Some(session) => Ok(session),
            None => Session::open(host),
        }
        .and_then(|mut open| open.commit(&entry).map(|()| open));
        match result {
            Ok(open) => {
                session = Some(open);
                if let Ok(mut acked) = acked.lock() {
                    acked.push(Acked { entry, at: Instant::now() });
                }
                seq += 1;
            }
            Err(_) => std::thread::sleep(RETRY_PAUSE),
        }
    }
}

struct Session {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Session {
    fn open(host: Ipv4Addr) -> Result<Session> {
        let mut child = Command::new("psql")
            .args([&address(host), "-XAtn", "-v", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("psql (Debian: postgresql-client) cannot be run")?;
        let (stdin, stdout) = (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
        let (say, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Session { child, stdin, lines })
    }

    /// One transaction in one message; done when the server said `COMMIT`.
    fn commit(&mut self, entry: &NewEntry) -> Result<()> {
        writeln!(
            self.stdin,
            "BEGIN\\; INSERT INTO entry (client, seq, text) VALUES ('{}', {}, '{}') ON CONFLICT (client, seq) DO NOTHING\\; COMMIT;",
            entry.client, entry.seq, entry.text
        )?;
        let until = Instant::now() + ANSWER_BOUND;
        loop {
            let line = self.lines.recv_timeout(until.saturating_duration_since(Instant::now()))?;
            match line.as_str() {
                "COMMIT" => return Ok(()),
                "ROLLBACK" => bail!("rolled back"),
                _ => {}
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has PostgreSQL check its tables and indexes, each row against its index (`pg_amcheck`).
///
/// # Errors
/// What it found, in its words.
pub fn check(lab: &Lab, host: Ipv4Addr) -> Result<()> {
    // With the server in Debian, and not in anybody's path.
    let line = "exec /usr/lib/postgresql/*/bin/pg_amcheck --install-missing --heapallindexed -h \"$1\" -p \"$2\" -U postgres postgres";
    let output = lab.exec(CLIENT, &["sh", "-c", line, "sh", &host.to_string(), &PORT.to_string()])?;
    if !output.status.success() {
        bail!("pg_amcheck: {}{}", String::from_utf8_lossy(&output.stdout).trim(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Every entry, in order.
pub fn read_all(lab: &Lab, host: Ipv4Addr) -> Result<Vec<Entry>> {
    let output = lab.exec(CLIENT, &["psql", &address(host), "-XAt", "-c", "SELECT id, client, seq, text FROM entry ORDER BY id"])?;
    if !output.status.success() {
        bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8(output.stdout)?;
    let one = |line: &str| -> Option<Entry> {
        let mut parts = line.splitn(4, '|');
        let (id, client, seq, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Entry { id: id.parse().ok()?, client: client.to_owned(), seq: seq.parse().ok()?, text: text.to_owned() })
    };
    text.lines().map(|line| one(line).with_context(|| format!("psql printed `{line}`"))).collect()
}
