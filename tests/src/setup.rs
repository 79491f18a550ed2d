//! From bare hosts to a cluster: exactly the steps of the installation manual, by the documented commands.

use crate::api::Api;
use crate::lab::names::{AGENTS_PORT, CONSOLE_PORT};
use crate::lab::{CONSOLE, Lab, Network};
use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Cluster that `lab up --console` makes.
pub const CLUSTER: &str = "lab";
/// Its administrator.
pub const USER: &str = "admin";
/// The console starts, makes its keys and its database in this time.
const CONSOLE_BOUND: Duration = Duration::from_secs(60);
/// A node connects and is approved in this time.
const NODE_BOUND: Duration = Duration::from_secs(30);

/// Starts the console, does the first set-up, makes cluster `lab` of every other host, enrols and approves
/// them. Notes for `lab info`: `console_url`, `ca_file`, `user`, `password`, `api_token`, `cluster`.
pub fn set_up(lab: &Lab) -> Result<Api> {
    let api = start_console(lab, CONSOLE_PORT)?;
    let code = wait_for("the set-up code", CONSOLE_BOUND, || {
        lab.sh(CONSOLE, "cat /var/lib/tsugi-server/setup-code").ok().filter(|c| !c.is_empty())
    })?;
    let password: String = (0..20).map(|_| char::from(b'a' + rand::random::<u8>() % 26)).collect();
    let token = api.set_up(code.trim(), USER, &password)?;
    lab.note("user", USER)?;
    lab.note("password", password)?;
    lab.note("api_token", token.clone())?;
    let api = api.with_token(&token);
    let nodes = lab.info()?.hosts.into_keys().filter(|h| h != CONSOLE).collect::<Vec<_>>();
    api.must(Method::POST, "/api/v1/clusters", Some(&json!({"name": CLUSTER, "xml": cluster_xml(&nodes)})))?;
    lab.note("cluster", CLUSTER)?;
    for node in &nodes {
        enrol(lab, &api, node)?;
    }
    Ok(api)
}

/// Starts the console's service and waits until it answers on the loopback of this machine.
pub fn start_console(lab: &Lab, port: u16) -> Result<Api> {
    lab.set_service(CONSOLE, "server", true)?;
    let to = SocketAddr::from((Network::Client.addr(10), CONSOLE_PORT));
    let port = lab.forward(port, to)?;
    let url = format!("https://127.0.0.1:{port}");
    let ca = lab.places().dir.join("ca.crt");
    let pem = wait_for("the console's CA certificate", CONSOLE_BOUND, || {
        std::fs::read(lab.path_in(CONSOLE, "/var/lib/tsugi-server/ca.crt").ok()?)
            .ok()
            .filter(|p| p.ends_with(b"-----END CERTIFICATE-----\n"))
    })
    .with_context(|| format!("see {}", lab.places().host(CONSOLE).join("server.log").display()))?;
    std::fs::write(&ca, &pem)?;
    let api = Api::new(&url, &pem)?;
    wait_for("the console to answer", CONSOLE_BOUND, || api.is_ready().then_some(()))
        .with_context(|| format!("see {}", lab.places().host(CONSOLE).join("server.log").display()))?;
    lab.note("console_url", url)?;
    lab.note("ca_file", ca.display().to_string())?;
    Ok(api)
}

/// `cluster.xml` of the lab's two networks.
pub fn cluster_xml(nodes: &[String]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<cluster>\n  <lans>\n");
    for network in [Network::Private, Network::Client] {
        let command = if network == Network::Private { " command=\"on\"" } else { "" };
        let _ = writeln!(text, "    <lan name=\"{}\"{command}>", network.word());
        for node in nodes {
            let number = crate::lab::names::number_of(node).unwrap_or_default();
            let _ = writeln!(text, "      <node name=\"{node}\" addr=\"{}\"/>", network.addr(number));
        }
        text.push_str("    </lan>\n");
    }
    text.push_str("  </lans>\n</cluster>\n");
    text
}

/// Enrols one host, starts its agent and approves it.
pub fn enrol(lab: &Lab, api: &Api, node: &str) -> Result<()> {
    let answer = api.must(Method::POST, &format!("/api/v1/clusters/{CLUSTER}/join-tokens"), Some(&json!({})))?;
    let token = answer["token"].as_str().context("the answer has no join token")?;
    let console = format!("https://{}:{AGENTS_PORT}", Network::Private.addr(10));
    lab.sh(node, &format!("tsugi-agent enroll --console {console} --token {token} --name {node}"))?;
    lab.set_service(node, "agent", true)?;
    wait_for(&format!("{node} to be approved"), NODE_BOUND, || {
        api.must(Method::POST, &format!("/api/v1/clusters/{CLUSTER}/nodes/{node}/approve"), Some(&json!({}))).ok()
    })?;
    wait_for(&format!("{node} to be connected"), NODE_BOUND, || {
        let nodes = api.must(Method::GET, &format!("/api/v1/clusters/{CLUSTER}/nodes"), None).ok()?;
        let rows = nodes.as_array().or_else(|| nodes["nodes"].as_array())?;
        let row = rows.iter().find(|r| r["name"] == node || r["node"] == node)?;
        (row["connected"] == true || row["is_connected"] == true).then_some(())
    })
    .with_context(|| format!("see {}", lab.places().host(node).join("agent.log").display()))
}

/// A module's files as they are shipped: `conf/userconfig.xml` and `bin/*`.
pub struct ModuleFiles {
    /// The configuration.
    pub userconfig: String,
    /// Script name → text.
    pub scripts: BTreeMap<String, String>,
}

/// Reads a shipped module and sets the values of its macros.
pub fn read_module(dir: &Path, macros: &[(&str, &str)]) -> Result<ModuleFiles> {
    let path = dir.join("conf/userconfig.xml");
    let mut userconfig = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    for (name, value) in macros {
        userconfig = set_macro(&userconfig, name, value).with_context(|| format!("{}", path.display()))?;
    }
    let mut scripts = BTreeMap::new();
    for entry in std::fs::read_dir(dir.join("bin"))? {
        let entry = entry?;
        scripts.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read_to_string(entry.path())?);
    }
    Ok(ModuleFiles { userconfig, scripts })
}

/// Replaces the value in `<macro name="NAME" value="…"/>`.
fn set_macro(text: &str, name: &str, value: &str) -> Result<String> {
    let head = format!("<macro name=\"{name}\" value=\"");
    let begin = text.find(&head).with_context(|| format!("it has no macro {name}"))? + head.len();
    let length = text[begin..].find('"').context("the macro's value does not end")?;
    Ok(format!("{}{value}{}", &text[..begin], &text[begin + length..]))
}

/// Uploads a module for `nodes` and applies it.
pub fn apply_module(api: &Api, name: &str, nodes: &[&str], files: &ModuleFiles) -> Result<()> {
    let body = json!({"name": name, "nodes": nodes, "userconfig": files.userconfig, "scripts": files.scripts});
    let path = format!("/api/v1/clusters/{CLUSTER}/modules");
    api.must(Method::POST, &path, Some(&body))?;
    let answer = api.must(Method::POST, &format!("{path}/{name}/apply"), Some(&json!({})))?;
    wait_operation(api, &answer)
}

/// Waits for the end of the operation an answer names.
pub fn wait_operation(api: &Api, answer: &serde_json::Value) -> Result<()> {
    let id = &answer["operation"]["id"];
    let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    let begin = Instant::now();
    loop {
        let answer = api.must(Method::GET, &format!("/api/v1/operations/{id}"), None)?;
        let operation = if answer["operation"].is_object() { &answer["operation"] } else { &answer };
        match operation["state"].as_str().or_else(|| operation["status"].as_str()).unwrap_or_default() {
            "done" | "succeeded" | "ok" => return Ok(()),
            "failed" | "refused" | "error" | "expired" => bail!("operation {id} failed: {operation}"),
            _ if begin.elapsed() > NODE_BOUND => bail!("operation {id} does not end: {operation}"),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Asks until there is an answer.
pub fn wait_for<T>(what: &str, bound: Duration, ask: impl Fn() -> Option<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if begin.elapsed() > bound {
            bail!("waited {bound:?} for {what}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macros_get_the_labs_values() {
        let text = r#"<safe><macro name="VIP" value="192.0.2.1"/><macro name="PORT" value="80"/></safe>"#;
        let set = set_macro(text, "VIP", "198.18.0.100").unwrap();
        assert_eq!(set, r#"<safe><macro name="VIP" value="198.18.0.100"/><macro name="PORT" value="80"/></safe>"#);
        assert!(set_macro(text, "DIR", "/x").is_err());
    }

    #[test]
    fn every_node_is_on_both_networks() {
        let xml = cluster_xml(&["n1".into(), "n2".into()]);
        assert_eq!(xml.matches("<node ").count(), 4);
        assert!(xml.contains("198.18.1.12") && xml.contains("198.18.0.11"));
    }
}
