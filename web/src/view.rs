//! The pages' inputs: what the server fills in. Facts only; words come from [`crate::say`] and [`crate::text`].

use crate::fleet::{ClusterView, HealthView, ModuleView};
use crate::say::{Interruption, Target};
use crate::text::Lang;
use tsugi_core::command::{Refusal, Verb};
use tsugi_core::event::{EventRecord, Level};
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::rehearsal::Rehearsal;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Read.
    Monitor,
    /// And order actions on modules.
    Control,
    /// And change configurations, nodes and users.
    Admin,
}

/// Look of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Theme {
    /// As the browser asks.
    #[default]
    Auto,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

impl Theme {
    /// Value of the cookie and of `data-theme`.
    pub fn word(self) -> &'static str {
        match self {
            Theme::Auto => "auto",
            Theme::Light => "light",
            Theme::Dark => "dark",
        }
    }
    /// The theme of that word; anything else is `Auto`.
    pub fn from_word(word: &str) -> Theme {
        match word {
            "light" => Theme::Light,
            "dark" => Theme::Dark,
            _ => Theme::Auto,
        }
    }
}

/// Who looks at the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserView {
    /// Sign-in name.
    pub name: String,
    /// What he may do.
    pub role: Role,
}

/// Where a live page continues (`static/live.js` reads it from the page).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveStart {
    /// Life of the console's change feed.
    pub epoch: String,
    /// The page holds every change up to this one.
    pub seq: u64,
    /// See [`crate::live_ids::Scope`].
    pub scope: String,
}

/// What is common to all pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chrome {
    /// Language.
    pub lang: Lang,
    /// Look.
    pub theme: Theme,
    /// Absent on the pages before sign-in.
    pub user: Option<UserView>,
    /// Path and query of this page, for the language and theme switches to return to.
    pub path: String,
    /// Name of this console's machine.
    pub console: String,
    /// Version of the console.
    pub version: String,
    /// The console's wall clock.
    pub now_unix_ms: u64,
    /// The console's time zone, for pages without scripts; `live.js` shows the browser's own.
    pub tz_offset_minutes: i32,
    /// Rows of "needs attention" over all clusters, for the number in the menu.
    pub attention: usize,
    /// Set on live pages.
    pub live: Option<LiveStart>,
    /// A message about what was just done, shown once.
    pub toast: Option<String>,
}

impl Chrome {
    /// The user's role; nobody signed in may only read.
    pub fn role(&self) -> Role {
        self.user.as_ref().map_or(Role::Monitor, |u| u.role)
    }
}

/// A message under a form's title.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormError(pub String);

/// `/setup`.
#[derive(Debug, Clone)]
pub struct SetupView {
    pub chrome: Chrome,
    /// Typed before; never the password.
    pub code: String,
    pub user: String,
    pub error: Option<SetupError>,
}

/// Why set-up did not go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetupError {
    /// The one-time code is not that of the console's log.
    WrongCode,
    /// Too short.
    WeakPassword { chars_min: usize },
    /// Both entries differ.
    PasswordsDiffer,
    /// Not a name.
    BadUser,
}

/// `/login`.
#[derive(Debug, Clone)]
pub struct LoginView {
    pub chrome: Chrome,
    pub user: String,
    /// Page to go to afterwards.
    pub next: String,
    pub error: Option<LoginError>,
}

/// Why sign-in did not go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginError {
    /// Name or password; it is not said which.
    Wrong,
    /// Too many tries.
    Throttled { seconds: u64 },
    /// The session ended.
    Expired,
}

/// `/`.
#[derive(Debug, Clone)]
pub struct DashboardView {
    pub chrome: Chrome,
    /// Pressed tile.
    pub filter: Option<HealthView>,
    /// All clusters the user may see; the page sorts them, problems first.
    pub clusters: Vec<ClusterView>,
}

/// `/clusters`.
#[derive(Debug, Clone)]
pub struct ClustersView {
    pub chrome: Chrome,
    pub clusters: Vec<ClusterView>,
    /// Search box.
    pub query: String,
}

/// `/clusters/new` and `/clusters/{c}/config`: cluster.xml.
#[derive(Debug, Clone)]
pub struct ClusterConfigView {
    pub chrome: Chrome,
    /// Absent = a new one.
    pub cluster: Option<ClusterName>,
    /// Typed name (new one).
    pub name: String,
    /// Text of cluster.xml.
    pub xml: String,
    pub problems: Vec<ProblemView>,
}

/// `/clusters/{c}`.
#[derive(Debug, Clone)]
pub struct ClusterPageView {
    pub chrome: Chrome,
    pub cluster: ClusterView,
    /// Shown after "Create a join command".
    pub join: Option<JoinView>,
    /// Newest first.
    pub events: Vec<EventView>,
}

/// A join token just made; shown once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinView {
    /// `tsugi-agent enroll …`, to be run as root on the new node.
    pub command: String,
    /// When the token lapses.
    pub expires_unix_ms: u64,
}

/// An event with its cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct EventView {
    pub cluster: ClusterName,
    pub record: EventRecord,
}

/// `/clusters/{c}/modules/{m}`.
#[derive(Debug, Clone)]
pub struct ModulePageView {
    pub chrome: Chrome,
    pub module: ModuleView,
    /// Newest first.
    pub events: Vec<EventView>,
    /// Newest first.
    pub versions: Vec<VersionView>,
    /// The operation that runs on it now.
    pub operation: Option<OperationView>,
}

/// A stored version of a module's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionView {
    pub number: u64,
    pub by: String,
    pub at_unix_ms: u64,
    pub reason: Option<String>,
    /// In force on every node.
    pub is_active: bool,
}

/// `/clusters/{c}/modules/{m}/actions/{verb}` as page and as dialog.
#[derive(Debug, Clone)]
pub struct ActionView {
    pub chrome: Chrome,
    pub module: ModuleView,
    pub verb: Verb,
    pub target: Target,
    pub interruption: Interruption,
    /// What each node says it would do; absent = it did not say in time. Empty where no node was asked.
    pub rehearsals: Vec<(NodeName, Option<Rehearsal>)>,
    /// Typed before, when the form is shown again.
    pub reason: String,
    pub error: Option<ActionError>,
    /// Hash of the state the plan was made from; the form returns it.
    pub plan_hash: String,
}

/// Why an action was not ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionError {
    /// A node refused.
    Refused { node: NodeName, refusal: Refusal },
    /// The state changed since the dialog was opened.
    Changed,
    /// The typed name is not the module's.
    NameDiffers,
    /// A reason is required for this action.
    ReasonMissing,
    /// The user's role does not allow it.
    NotAllowed,
    /// Another operation on this module is running.
    Running { operation: String },
}

/// `/clusters/{c}/modules/new` and `/clusters/{c}/modules/{m}/config`.
#[derive(Debug, Clone)]
pub struct ModuleConfigView {
    pub chrome: Chrome,
    pub cluster: ClusterName,
    /// Absent = a new one.
    pub module: Option<ModuleName>,
    /// Typed name (new one).
    pub name: String,
    /// Nodes of the cluster, and whether the module lives there.
    pub nodes: Vec<(NodeName, bool)>,
    /// Text of userconfig.xml.
    pub userconfig: String,
    /// File name → text, in the order to show.
    pub scripts: Vec<(String, String)>,
    /// `Some` after a check; empty = no problems.
    pub problems: Option<Vec<ProblemView>>,
    /// Why it is changed.
    pub reason: String,
    /// Version the text is based on; 0 = new.
    pub version: u64,
    /// The module runs: applying restarts what the change concerns.
    pub is_running: bool,
    /// Shipped templates to begin with (new one): id and title in the page's language.
    pub templates: Vec<(String, String)>,
    /// The template chosen.
    pub template: Option<String>,
}

/// A problem of a configuration text, worded by [`crate::say`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemView {
    /// `conf/userconfig.xml`, `bin/start_prim`.
    pub file: String,
    /// From 1; 0 = the whole file.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// Element or attribute concerned.
    pub element: String,
    pub message: String,
    pub remedy: Option<String>,
    /// It may be applied all the same.
    pub is_warning: bool,
}

/// `/events`.
#[derive(Debug, Clone)]
pub struct EventsView {
    pub chrome: Chrome,
    pub filter: EventFilter,
    /// For the filter's lists: clusters and their modules.
    pub clusters: Vec<(ClusterName, Vec<ModuleName>)>,
    /// Newest first.
    pub events: Vec<EventView>,
    /// Query value `before=` of the next older page.
    pub older: Option<String>,
}

/// Filter of the events page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    pub cluster: Option<ClusterName>,
    pub module: Option<ModuleName>,
    /// This level and louder.
    pub level: Option<Level>,
}

/// `/operations/{id}`.
#[derive(Debug, Clone)]
pub struct OperationPageView {
    pub chrome: Chrome,
    pub operation: OperationView,
}

/// An order or a deployment under way or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationView {
    pub id: String,
    pub cluster: ClusterName,
    pub module: ModuleName,
    pub what: OperationKind,
    pub by: String,
    pub reason: Option<String>,
    pub started_unix_ms: u64,
    pub ended_unix_ms: Option<u64>,
    pub state: OperationState,
    /// What each node answered.
    pub nodes: Vec<NodeOutcome>,
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationKind {
    /// An order.
    Action(Verb),
    /// A configuration is brought to the nodes.
    Apply { version: u64 },
    /// The module is removed.
    Remove,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationState {
    /// Not sent yet.
    Queued,
    /// Sent; its end is taken from the observed state.
    Running,
    /// Observed.
    Succeeded,
    /// Refused or ended otherwise.
    Failed,
    /// Contact was lost; decided when the agent returns.
    Unknown,
}

/// What one node made of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOutcome {
    pub node: NodeName,
    pub state: OperationState,
    pub refusal: Option<Refusal>,
    /// Problems of a deployment, English, from the agent.
    pub problems: Vec<String>,
}

/// Any page that could not be given.
#[derive(Debug, Clone)]
pub struct ErrorView {
    pub chrome: Chrome,
    pub error: PageError,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageError {
    /// 404.
    NotFound,
    /// 403.
    NotAllowed,
    /// 400 with words of the server.
    BadRequest(String),
    /// 500; the code is in the console's log.
    Internal { code: String },
    /// 503.
    Unavailable,
}
