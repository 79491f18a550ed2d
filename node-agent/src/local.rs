//! Command line ↔ agent: a UNIX socket on which a caller asks once and reads the answers.
//!
//! Who may ask is decided by what the kernel says of the caller (`SO_PEERCRED`): root, the agent's own user, or a
//! member of group `tsugi`. The kernel's word also replaces whatever name an order carries.

use nix::unistd::{Gid, Group, Uid, User, chown, getgrouplist};
use std::ffi::CString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tsugi_core::command::Command;
use tsugi_core::wire::local::{Reply, Request};

/// Members of this group may use the command line.
pub const GROUP: &str = "tsugi";
/// Callers served at once; one more is told so. Far above what people and scripts of one machine need.
const CLIENTS_MAX: usize = 64;
/// Longest request: an order with a reason in someone's words is far below.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// Longest reply the command line takes: 10,000 events of 1 KiB.
const REPLY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// A caller that connects and says nothing is dropped.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// A caller that does not read its replies is dropped.
const WRITE_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest name that a checker or script gives itself.
const NAME_CHARS_MAX: usize = 64;
/// Replies under way to one caller; the sender of more waits.
const REPLIES_QUEUED_MAX: usize = 4;
/// The agent must take a request up within this time.
const HAND_OVER_TIME_MAX: Duration = Duration::from_secs(5);

/// Why the socket cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Somebody listens there.
    #[error("another tsugi-agent answers on {}. Remedy: stop it (`systemctl stop tsugi-agent`), or give this one another --run", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot offer the socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// Where replies to one request go. Dropping it ends the connection.
#[derive(Debug, Clone)]
pub struct Responder {
    replies: mpsc::Sender<Reply>,
}

impl Responder {
    /// Sends a reply; waits while the caller is behind. `false`: the caller is gone.
    pub async fn send(&self, reply: Reply) -> bool {
        self.replies.send(reply).await.is_ok()
    }
    /// Sends a reply if the caller keeps up. `false`: it is gone or behind.
    pub fn try_send(&self, reply: Reply) -> bool {
        self.replies.try_send(reply).is_ok()
    }
    /// Returns when the caller has gone: the end of a `Watch`.
    pub async fn closed(&self) {
        self.replies.closed().await;
    }
}

/// The socket. It is offered as long as this value lives.
#[derive(Debug)]
pub struct LocalServer {
    path: PathBuf,
    accept: tokio::task::JoinHandle<()>,
}

impl LocalServer {
    /// Offers the socket at `path` (its directory is made) and hands every permitted request to `tx`.
    /// Must be called inside the runtime.
    pub fn start(path: &Path, tx: mpsc::Sender<(Request, Responder)>) -> Result<LocalServer, LocalError> {
        let io = |source| LocalError::Io { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(io)?;
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(LocalError::InUse { path: path.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // Left by an agent that was killed.
            Err(_) => std::fs::remove_file(path).map_err(io)?,
        }
        let listener = UnixListener::bind(path).map_err(io)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(io)?;
        if let Some(gid) = group() {
            // Not root (tests): then only this user can ask, which is right.
            let _ = chown(path, None, Some(gid));
        }
        Ok(LocalServer { path: path.to_owned(), accept: tokio::spawn(accept(listener, tx)) })
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.accept.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, tx: mpsc::Sender<(Request, Responder)>) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a caller on the local socket could not be accepted");
                // Out of descriptors: the loop must not take the processor.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = places.clone().try_acquire_owned();
        let tx = tx.clone();
        tokio::spawn(async move {
            match place {
                Ok(_place) => serve(stream, tx).await,
                Err(_) => {
                    let message = format!("{CLIENTS_MAX} callers are being served already: end some (`tsugi watch`?) and try again");
                    refuse(stream, message).await;
                }
            }
        });
    }
}

/// One caller. Errors of its connection end it and concern nobody else.
async fn serve(stream: UnixStream, tx: mpsc::Sender<(Request, Responder)>) {
    let who = match stream.peer_cred() {
        Ok(cred) => tokio::task::spawn_blocking(move || identify(Uid::from_raw(cred.uid()), Gid::from_raw(cred.gid()))).await,
        Err(error) => return tracing::warn!(%error, "the kernel does not say who calls on the local socket"),
    };
    let by = match who {
        Ok(Ok(name)) => name,
        Ok(Err(message)) => return refuse(stream, message).await,
        Err(error) => return tracing::error!(%error, "a caller on the local socket could not be identified"),
    };
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read).take(REQUEST_BYTES_MAX);
    let mut line = String::new();
    let request = match timeout(REQUEST_TIME_MAX, read.read_line(&mut line)).await {
        Ok(Ok(0)) | Ok(Err(_)) | Err(_) => return,
        Ok(Ok(_)) if !line.ends_with('\n') && read.limit() == 0 => Err("the request is too long".to_owned()),
        Ok(Ok(_)) => serde_json::from_str::<Request>(&line).map_err(|e| format!("the request is not understood: {e}")),
    };
    let request = match request {
        Ok(Request::Command { module, command }) => Request::Command { module, command: signed(command, by) },
        Ok(Request::Rehearse { module, command }) => Request::Rehearse { module, command: signed(command, by) },
        Ok(request) => request,
        Err(message) => return send(&mut write, &Reply::Error { message }).await.unwrap_or(()),
    };
    let (replies, mut queue) = mpsc::channel(REPLIES_QUEUED_MAX);
    if !matches!(timeout(HAND_OVER_TIME_MAX, tx.send((request, Responder { replies }))).await, Ok(Ok(()))) {
        let message = "the agent is ending or overloaded: try again".to_owned();
        return send(&mut write, &Reply::Error { message }).await.unwrap_or(());
    }
    let mut rest = [0; 64];
    loop {
        tokio::select! {
            reply = queue.recv() => match reply {
                Some(reply) if send(&mut write, &reply).await.is_ok() => {}
                _ => return,
            },
            // The caller says nothing more; when it goes, the responder's sender learns it.
            read = read.get_mut().read(&mut rest) => if !matches!(read, Ok(n) if n > 0) { return },
        }
    }
}

/// Who orders is what the kernel says; a checker or script puts its own name before that.
fn signed(command: Command, user: String) -> Command {
    let name: String = command.by.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    let by = if command.is_automatic && !name.is_empty() { format!("{name} ({user})") } else { user };
    Command { by, ..command }
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    timeout(WRITE_TIME_MAX, write.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn refuse(mut stream: UnixStream, message: String) {
    // The caller may have gone: nobody is left to tell.
    let _ = send(&mut stream, &Reply::Error { message }).await;
}

/// Name of a permitted caller, or the sentence that refuses it. Blocks: it asks the system's user database.
fn identify(uid: Uid, gid: Gid) -> Result<String, String> {
    let user = User::from_uid(uid).ok().flatten();
    let name = user.as_ref().map_or_else(|| format!("uid {uid}"), |u| u.name.clone());
    if uid.is_root() || uid == Uid::effective() {
        return Ok(name);
    }
    let groups = user.and_then(|u| CString::new(u.name).ok().and_then(|n| getgrouplist(&n, u.gid).ok())).unwrap_or_default();
    match group() {
        Some(tsugi) if gid == tsugi || groups.contains(&tsugi) => Ok(name),
        _ => {
            Err(format!("{name} may not use the agent. Remedy: run as root, or add the user to group {GROUP}: usermod -aG {GROUP} {name}"))
        }
    }
}

fn group() -> Option<Gid> {
    Group::from_name(GROUP).ok().flatten().map(|g| g.gid)
}

/// The asking side.
#[derive(Debug)]
pub struct Client {
    read: tokio::io::Take<BufReader<tokio::net::unix::OwnedReadHalf>>,
    /// Open as long as the caller wants replies.
    _write: tokio::net::unix::OwnedWriteHalf,
}

impl Client {
    /// Connects and asks.
    pub async fn ask(socket: &Path, request: &Request) -> io::Result<Client> {
        let (read, mut write) = UnixStream::connect(socket).await?.into_split();
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        match write.write_all(&line).await {
            // Refused before it was read: the reason is there to be read.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            other => other?,
        }
        Ok(Client { read: BufReader::new(read).take(REPLY_BYTES_MAX), _write: write })
    }

    /// The next reply; `None` when the agent has said everything.
    pub async fn next(&mut self) -> io::Result<Option<Reply>> {
        self.read.set_limit(REPLY_BYTES_MAX);
        let mut line = String::new();
        match self.read.read_line(&mut line).await? {
            0 => Ok(None),
            _ => Ok(Some(serde_json::from_str(&line)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::command::Verb;
    use tsugi_core::ids::{ModuleName, NodeName};

    fn about() -> Reply {
        let node = NodeName::new("n1").unwrap();
        Reply::About { node, version: "1".into(), console: None, is_console_connected: false, cluster: None }
    }
    fn module() -> ModuleName {
        ModuleName::new("db").unwrap()
    }

    #[tokio::test]
    async fn a_request_is_answered_and_the_connection_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let (tx, mut rx) = mpsc::channel(1);
        let _server = LocalServer::start(&path, tx).unwrap();
        let mut client = Client::ask(&path, &Request::About).await.unwrap();
        let (request, responder) = rx.recv().await.unwrap();
        assert!(matches!(request, Request::About));
        assert!(responder.send(about()).await);
        drop(responder);
        assert!(matches!(client.next().await.unwrap(), Some(Reply::About { .. })));
        assert!(client.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_watch_gets_every_reply_and_its_end_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let (tx, mut rx) = mpsc::channel(1);
        let _server = LocalServer::start(&path, tx).unwrap();
        let mut client = Client::ask(&path, &Request::Watch { module: None }).await.unwrap();
        let (_, responder) = rx.recv().await.unwrap();
        for _ in 0..20 {
            assert!(responder.send(Reply::State { snapshots: vec![] }).await);
            assert!(matches!(client.next().await.unwrap(), Some(Reply::State { .. })));
        }
        drop(client);
        timeout(Duration::from_secs(5), responder.closed()).await.unwrap();
        assert!(!responder.send(about()).await);
    }

    #[tokio::test]
    async fn the_kernel_says_who_orders() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let (tx, mut rx) = mpsc::channel(1);
        let _server = LocalServer::start(&path, tx).unwrap();
        let command = Command { id: "1".into(), verb: Verb::Start, by: "somebody else".into(), reason: None, is_automatic: false };
        let _client = Client::ask(&path, &Request::Command { module: module(), command }).await.unwrap();
        let Some((Request::Command { command, .. }, _)) = rx.recv().await else { panic!("no order") };
        let me = User::from_uid(Uid::effective()).unwrap().unwrap().name;
        assert_eq!(command.by, me);
        // A checker may say its name, and no more than that.
        let named = |is_automatic| {
            let (id, by) = ("1".into(), "boot".into());
            signed(Command { id, verb: Verb::Restart, by, reason: None, is_automatic }, "root".into()).by
        };
        assert_eq!([named(true), named(false)], ["boot (root)", "root"]);
    }

    #[tokio::test]
    async fn nonsense_and_endless_lines_are_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let (tx, _rx) = mpsc::channel(1);
        let _server = LocalServer::start(&path, tx).unwrap();
        for (line, wanted) in [("{\"ask\":\"dance\"}\n".to_owned(), "not understood"), ("x".repeat(70_000), "too long")] {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            let _ = stream.write_all(line.as_bytes()).await;
            let mut answer = String::new();
            let _ = BufReader::new(stream).read_line(&mut answer).await;
            assert!(answer.contains(wanted), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_leftover_socket_is_replaced_and_a_living_agent_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (tx, _rx) = mpsc::channel(1);
        let server = LocalServer::start(&path, tx.clone()).unwrap();
        assert!(matches!(LocalServer::start(&path, tx.clone()), Err(LocalError::InUse { .. })));
        drop(server);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn one_caller_too_many_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let (tx, mut rx) = mpsc::channel(1);
        let _server = LocalServer::start(&path, tx).unwrap();
        let mut held = Vec::new();
        for _ in 0..CLIENTS_MAX {
            let client = Client::ask(&path, &Request::Watch { module: None }).await.unwrap();
            held.push((client, rx.recv().await.unwrap()));
        }
        let mut late = Client::ask(&path, &Request::About).await.unwrap();
        let Some(Reply::Error { message }) = late.next().await.unwrap() else { panic!("served") };
        assert!(message.contains("64"), "{message}");
    }

    #[test]
    fn strangers_are_refused_with_the_remedy() {
        // 65534 is `nobody`, who is in no group but its own.
        let error = identify(Uid::from_raw(65534), Gid::from_raw(65534)).unwrap_err();
        assert!(error.contains("usermod -aG tsugi"), "{error}");
        assert_eq!(identify(Uid::from_raw(0), Gid::from_raw(0)), Ok("root".into()));
    }
}
