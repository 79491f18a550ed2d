//! The guard: a small process that does the least that must be done when the agent cannot.
//!
//! It keeps the virtual addresses of entitled modules alive, so that the kernel drops them when everything above is
//! dead. When a module's deadline passes and the agent has not reacted (it is dead, stopped, or starved), the guard
//! freezes the module's control group, removes its addresses, and later ends what it froze. It acts at the
//! *deadline*, not at the agent's death: an agent that is back before it costs nothing. A module that serves alone
//! has no deadline, because nobody else may take it over; the guard keeps it in service without its agent.
//!
//! ```text
//! agent ── table (shared memory): deadline, group, addresses of each module ── guard ── control groups, netlink
//! ```
//!
//! It has its memory locked and, where permitted, real-time priority; its loop ([`keeper`]) allocates nothing and
//! waits for nothing but the kernel. What may take long is done by its second thread ([`errand`]).

mod errand;
mod handle;
mod keeper;
mod netlink;
mod process;
mod table;

pub use errand::{Act, Note};
pub use handle::{Guard, Kept, WatchdogWish};
pub use process::guard_main;
pub use table::{Address, Described, Right};
