//! Events are kept and sent with their number, time, node and module in one flat object: no field of theirs may bear
//! one of those names.

#![allow(clippy::unwrap_used)] // in a test it is the assertion

use tsugi_core::event::{Event, EventRecord, GuardAct};
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::module::ScriptName;

#[test]
fn an_event_is_read_back_as_it_was_written() {
    let acts =
        [GuardAct::Froze { late_ms: 4 }, GuardAct::Thawed, GuardAct::Killed { count: 2 }, GuardAct::Failed, GuardAct::Starves];
    let guard = acts.into_iter().map(|act| Event::Guard { act, acted_unix_ms: 7 });
    let printed = [None, Some(ScriptName::Update)].map(|script| Event::Printed { script, text: "done".into(), is_error: true });
    for (seq, event) in (1..).zip(guard.chain(printed)) {
        let record = EventRecord { seq, at_unix_ms: 9, node: NodeName::new("n1").unwrap(), module: ModuleName::new("m").unwrap(), event };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<EventRecord>(&text).unwrap(), record, "{text}");
    }
}
