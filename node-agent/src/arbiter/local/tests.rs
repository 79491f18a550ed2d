use super::*;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tsugi_core::ids::{Epoch, Gen, LifeId, Session};
use tsugi_core::module::xml::{ParseContext, parse};
use tsugi_core::state::{Flag, Readiness, State};
use tsugi_core::wire::arbiter::OWN_STORE;

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}
fn saved(is_owner: bool, in_sync: &[&str]) -> Saved {
    Saved {
        arbiter: OWN_STORE,
        flag: Flag::UpToDate,
        epoch: Epoch(3),
        gen_id: Gen(4),
        in_sync: in_sync.iter().map(|n| node(n)).collect(),
        is_owner,
        is_started: true,
        ..Saved::default()
    }
}
fn status(state: State, flag: Flag) -> Status {
    Status {
        state,
        readiness: Readiness::Ready,
        is_started: true,
        is_serving: state.is_serving(),
        flag,
        epoch: Epoch(3),
        gen_id: Gen(4),
        lineage: vec![],
        in_sync: BTreeSet::new(),
        is_owner: false,
        arbiter: OWN_STORE,
        has_intent: false,
        session: Session(1),
        offer: None,
        requires: None,
        level: None,
        is_promise: false,
        released: None,
        hands_over: false,
        keep_ms: 5055,
        strange_store: LifeId(0),
        heard_strange_store: LifeId(0),
        is_arbiter_silent: false,
        is_session_lost: false,
        is_fit: true,
        wants_role: false,
        is_taken: false,
        resources: Default::default(),
    }
}
fn claim() -> ArbiterRequest {
    ArbiterRequest::Claim { store: LifeId(0), expected: Epoch(3), gen_id: Gen(9) }
}
fn force() -> ArbiterRequest {
    ArbiterRequest::Force { store: LifeId(0), expected: Epoch(3), floor: Epoch(0), gen_id: Gen(9), by: "root".into() }
}
/// An arbiter of node n1 whose peer is n2; `attributes` of service, `elements` in it.
fn local(dir: &Path, attributes: &str, elements: &str, saved: Saved) -> Local {
    let text = format!("<safe><service mode=\"mirror\" allow_split_brain=\"true\" {attributes}><user/>{elements}</service></safe>");
    let parsed = parse(&text, &ParseContext::default());
    let def = parsed.def.unwrap_or_else(|| panic!("{:?}", parsed.problems));
    let place = Place {
        module: ModuleName::new("db").unwrap(),
        me: node("n1"),
        peer: node("n2"),
        bin_dir: dir.to_owned(),
        log_dir: dir.join("log"),
    };
    Local::new(&def, place, saved)
}
fn fence_script(dir: &Path, text: &str) {
    let path = dir.join("fence");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
const FENCE: &str = "<fence delay=\"1s\" timeout=\"5s\"/>";
const NOBODY: &str = "<check><splitbrain ident=\"w\" arg=\"192.0.2.77\"/></check>";
const SOMEBODY: &str = "<check><splitbrain ident=\"w\" arg=\"192.0.2.77 127.0.0.1\"/></check>";

#[tokio::test]
async fn without_authority_the_own_record_decides_and_follows_what_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let local = local(dir.path(), "authority=\"none\"", "", saved(true, &["n1", "n2"]));
    assert_eq!(local.is_ready().await, None);
    let won = local.ask(&claim()).await.unwrap();
    assert!(won.is_accepted);
    assert_eq!((won.record.version, won.record.in_sync), (Epoch(4), BTreeSet::from([node("n1")])));
    assert_eq!(local.ask(&ArbiterRequest::Read).await.unwrap().record.version, Epoch(3), "nothing counts before it is saved");
    local.saved(&Saved { epoch: Epoch(4), in_sync: BTreeSet::from([node("n1")]), ..saved(true, &[]) });
    assert!(!local.ask(&claim()).await.unwrap().is_accepted);
    assert_eq!(local.ask(&ArbiterRequest::Read).await.unwrap().record.version, Epoch(4));
}

#[tokio::test]
async fn with_ping_a_node_goes_on_only_if_a_reference_address_answers() {
    let dir = tempfile::tempdir().unwrap();
    let cut_off = local(dir.path(), "", NOBODY, saved(true, &["n1", "n2"]));
    assert!(cut_off.ask(&claim()).await.is_err());
    assert_eq!(cut_off.is_ready().await, Some(false));
    assert!(cut_off.ask(&force()).await.unwrap().is_accepted, "a person's order");
    let connected = local(dir.path(), "", SOMEBODY, saved(true, &["n1", "n2"]));
    assert_eq!(connected.is_ready().await, Some(true));
    let begin = Instant::now();
    assert!(connected.ask(&claim()).await.unwrap().is_accepted);
    assert!(begin.elapsed() < PING_DELAY, "the owner does not wait");
}

#[tokio::test]
async fn a_secondary_waits_for_a_primary_that_may_still_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let local = Arc::new(local(dir.path(), "", SOMEBODY, saved(false, &["n1", "n2"])));
    local.heard(&status(State::Prim, Flag::UpToDate));
    let begin = Instant::now();
    assert!(local.ask(&claim()).await.unwrap().is_accepted);
    assert!(begin.elapsed() >= PING_DELAY);
    // Heard again while it waits.
    let asking = {
        let local = local.clone();
        tokio::spawn(async move { local.ask(&claim()).await })
    };
    tokio::task::yield_now().await;
    local.heard(&status(State::Prim, Flag::UpToDate));
    assert!(asking.await.unwrap().is_err_and(|e| e.to_string().contains("heard again")));
}

#[tokio::test]
async fn with_fence_a_node_goes_on_only_after_the_confirmation() {
    let dir = tempfile::tempdir().unwrap();
    fence_script(dir.path(), "echo \"$@\" >>$(dirname $0)/calls; [ ! -e $(dirname $0)/broken ]");
    let calls = || std::fs::read_to_string(dir.path().join("calls")).unwrap_or_default();
    let local = local(dir.path(), "authority=\"fence\"", FENCE, saved(false, &["n1", "n2"]));
    let error = local.ask(&claim()).await.unwrap_err().to_string();
    assert!(error.contains("since it started") && calls().is_empty(), "a node that just started fences nobody: {error}");
    local.heard(&status(State::Prim, Flag::UpToDate));
    std::fs::write(dir.path().join("broken"), "").unwrap();
    assert!(local.ask(&claim()).await.is_err());
    std::fs::remove_file(dir.path().join("broken")).unwrap();
    assert!(local.ask(&claim()).await.unwrap().is_accepted);
    assert_eq!(calls(), "off n2\noff n2\n");
    assert!(local.ask(&force()).await.unwrap().is_accepted);
    assert_eq!(calls(), "off n2\noff n2\n", "a person's order fences nobody");
}

#[tokio::test]
async fn nobody_is_fenced_who_gave_the_role_up_or_whose_module_is_stopped_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    fence_script(dir.path(), "touch $(dirname $0)/called");
    let is_called = || dir.path().join("called").exists();
    let local = Arc::new(local(dir.path(), "authority=\"fence\"", FENCE, saved(false, &["n1", "n2"])));
    local.heard(&Status { is_serving: false, released: Some(Epoch(3)), ..status(State::Prim, Flag::UpToDate) });
    assert!(local.ask(&claim()).await.unwrap().is_accepted);
    local.heard(&status(State::Wait, Flag::UpToDate));
    assert!(local.ask(&claim()).await.unwrap().is_accepted, "idle and in contact");
    local.heard(&status(State::Prim, Flag::UpToDate));
    let asking = {
        let local = local.clone();
        tokio::spawn(async move { local.ask(&claim()).await })
    };
    tokio::task::yield_now().await;
    local.saved(&Saved { is_started: false, ..saved(false, &["n1", "n2"]) });
    assert!(asking.await.unwrap().is_err_and(|e| e.to_string().contains("stopped")));
    assert!(!is_called());
}

/// That the replication ended is known before the beat that says why.
#[tokio::test]
async fn a_secondary_that_is_just_being_stopped_is_heard_out_and_one_that_goes_on_or_falls_silent_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    fence_script(dir.path(), "touch $(dirname $0)/called");
    let is_called = || dir.path().join("called").exists();
    let new = || Arc::new(local(dir.path(), "authority=\"fence\"", FENCE, saved(true, &["n1", "n2"])));
    let ask = |local: &Arc<Local>| {
        let local = local.clone();
        tokio::spawn(async move { local.ask(&claim()).await })
    };
    let leaving = new();
    leaving.heard(&status(State::Second, Flag::UpToDate));
    let asking = ask(&leaving);
    for _ in 0..5 {
        sleep(HEAR_POLL * 2).await; // beats
        leaving.heard(&Status { readiness: Readiness::Transient, ..status(State::Second, Flag::UpToDate) });
        assert!(!asking.is_finished(), "it has not said yet what it is about");
    }
    leaving.heard(&status(State::Stop, Flag::UpToDate));
    assert!(asking.await.unwrap().unwrap().is_accepted);
    assert!(!is_called());

    // Its replication is gone and it says that nothing is the matter: it might take over.
    let going_on = new();
    going_on.heard(&status(State::Second, Flag::UpToDate));
    let asking = ask(&going_on);
    tokio::task::yield_now().await;
    (0..BEATS_HEARD).for_each(|_| going_on.heard(&status(State::Second, Flag::UpToDate)));
    assert!(asking.await.unwrap().unwrap().is_accepted);
    assert!(is_called());

    // Silent for as long as makes it missed: at once from then on.
    std::fs::remove_file(dir.path().join("called")).unwrap();
    let silent = new();
    silent.heard(&status(State::Second, Flag::UpToDate));
    assert!(ask(&silent).await.unwrap().unwrap().is_accepted);
    assert!(is_called());
}
