//! # tsugi-web: words and HTML
//!
//! Everything people read: the console's pages, and the sentences that the API and the command line use too. No
//! network, no storage: the server fills the structs of [`view`] with facts and gets text back.
//!
//! | module | holds |
//! | --- | --- |
//! | [`fleet`] | facts of clusters, nodes, modules, as the server hands them over |
//! | [`view`] | one struct per page |
//! | [`say`] | the only place that words the domain |
//! | [`text`] | every other phrase, English and Japanese side by side |
//! | [`fmt`](mod@fmt) | numbers, sizes, times |
//! | [`live_ids`] | scopes and block ids of the live stream |
//! | [`render`] | `fn PAGE(&view) -> String` for each page: `setup login dashboard clusters cluster cluster_config module action module_config events operation error`; `fn action_dialog(&ActionView) -> String` (fragment for `HX-Request`); `fn dashboard_blocks / clusters_blocks / cluster_blocks / module_blocks / events_blocks / operation_blocks (&view) -> Vec<Block>` for live frames |
//! | [`assets`] | `fn get(name) -> Option<&'static Asset>` with bytes and content type for `GET /assets/{name}`; names carry a hash, cache for ever |
//!
//! Forms post to (all `application/x-www-form-urlencoded`): `/setup` {code,user,password,password2} · `/login` {user,password,next} · `/logout` ·
//! `/prefs` {lang?,theme?,back} (cookies, 303 to `back`) · `/clusters` {name,xml} · `/clusters/{c}/config` {xml} · `/clusters/{c}/join` ·
//! `/clusters/{c}/nodes/{n}/approve` · `/clusters/{c}/nodes/{n}/remove` · `/clusters/{c}/modules` {name,node=…*,userconfig,script_file=…*,script_text=…*,reason,do=check|apply} ·
//! `/clusters/{c}/modules/{m}/config` {userconfig,script_file=…*,script_text=…*,reason,do=check|save|apply} ·
//! `/clusters/{c}/modules/{m}/versions/{v}/apply` · `/clusters/{c}/modules/{m}/actions/{verb}` {node?,reason?,name?,plan,accept_loss?,full_sync?}; the same path by GET shows the action page (`?node=&accept_loss=1&full_sync=1`), with `HX-Request` the dialog.

pub mod assets;
pub mod fleet;
pub mod fmt;
pub mod live_ids;
pub mod render;
pub mod say;
pub mod text;
pub mod view;
