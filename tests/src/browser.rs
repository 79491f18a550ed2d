//! A real Chromium without a window, driven through WebDriver.
//!
//! One [`Browser`] is one chromedriver on a free port with one Chromium and a profile of its own; all three go away
//! with the value. Calls block, so that a test reads like what a person does.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use thirtyfour::common::capabilities::chromium::ChromiumLikeCapabilities;
use thirtyfour::error::{WebDriverError, WebDriverErrorInner, WebDriverResult};
use thirtyfour::{By, CapabilitiesHelper, DesiredCapabilities, LoggingPrefsLogLevel, WebDriver, WebElement};

/// chromedriver and Chromium start within this time, also on a busy machine.
const START_BOUND: Duration = Duration::from_secs(60);
/// One command to the browser.
const CALL_BOUND: Duration = Duration::from_secs(60);
/// Between looks at something awaited.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// An orderly end of the browser; afterwards it is killed.
const QUIT_BOUND: Duration = Duration::from_secs(10);

/// A live page renews an element now and then, not without end.
const RENEWAL_BOUND: Duration = Duration::from_secs(5);

/// What keeps Chromium to itself: no sandbox (the tests are root), no traffic but the test's.
const FLAGS: &[&str] = &[
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
    "--hide-scrollbars",
    "--lang=en-US",
    // Chromium ends with its pipe, whatever becomes of the driver.
    "--remote-debugging-pipe",
];

/// A running browser at one site.
pub struct Browser {
    driver: Option<WebDriver>,
    runtime: tokio::runtime::Runtime,
    chromedriver: Child,
    profile: tempfile::TempDir,
    site: String,
}

impl Browser {
    /// Starts one for `site` (`https://host:port`).
    pub fn start(site: &str) -> Result<Browser> {
        let profile = tempfile::Builder::new().prefix("tsugi-browser-").tempdir()?;
        let (chromedriver, port) = start_chromedriver(profile.path())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut browser = Browser { driver: None, runtime, chromedriver, profile, site: site.trim_end_matches('/').to_owned() };
        let mut wanted = DesiredCapabilities::chrome();
        for flag in FLAGS {
            wanted.add_arg(flag)?;
        }
        wanted.add_arg(&format!("--user-data-dir={}", browser.profile.path().join("profile").display()))?;
        wanted.accept_insecure_certs(true)?;
        for log in ["browser", "performance"] {
            wanted.set_logging_prefs(log, LoggingPrefsLogLevel::All)?;
        }
        let connect = WebDriver::builder(format!("http://127.0.0.1:{port}"), wanted).request_timeout(CALL_BOUND);
        let driver = browser.runtime.block_on(async { tokio::time::timeout(START_BOUND, connect.connect()).await });
        browser.driver = Some(driver.context("Chromium does not start in time")?.context("Chromium does not start")?);
        Ok(browser)
    }

    fn driver(&self) -> &WebDriver {
        self.driver.as_ref().expect("the driver is there until the browser is dropped")
    }

    /// Opens a page of the site.
    pub fn open(&self, path: &str) -> Result<()> {
        self.runtime.block_on(self.driver().goto(format!("{}{path}", self.site))).with_context(|| format!("open {path}"))
    }

    /// Path and query of the page that is shown.
    pub fn path(&self) -> Result<String> {
        let url = self.runtime.block_on(self.driver().current_url())?;
        Ok(url.as_str().strip_prefix(&self.site).unwrap_or(url.as_str()).to_owned())
    }

    /// Value of a function body in the page; `arguments` are `args`.
    pub fn js(&self, body: &str, args: Vec<Value>) -> Result<Value> {
        let answer = self.runtime.block_on(self.driver().execute(body.to_owned(), args)).with_context(|| format!("script {body}"))?;
        Ok(answer.json().clone())
    }

    /// Waits until the expression is true in whatever page is shown then; its value.
    pub fn wait(&self, what: &str, bound: Duration, expression: &str) -> Result<Value> {
        let begin = Instant::now();
        let body = format!("return ({expression})");
        loop {
            // While one page makes room for the next, a script may find neither.
            let seen = self.js(&body, Vec::new());
            if let Ok(value) = &seen
                && is_true(value)
            {
                return seen;
            }
            if begin.elapsed() > bound {
                let page = self.js("return location.pathname + ': ' + document.body.innerText.slice(0, 1500)", Vec::new());
                bail!("waited {bound:?} for {what} ({expression}: {seen:?}) on {}", page.unwrap_or_default());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Does something with the first element that matches; again when the page renewed that element meanwhile.
    fn with<T>(&self, what: &str, css: &str, act: impl AsyncFn(&WebElement) -> WebDriverResult<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            let done = self.runtime.block_on(async { act(&self.driver().find(By::Css(css.to_owned())).await?).await });
            match done {
                Err(error) if is_renewed(&error) && begin.elapsed() < RENEWAL_BOUND => {}
                done => return done.with_context(|| format!("{what} {css}")),
            }
        }
    }

    /// Clicks as a mouse does; fails when something lies over the element.
    pub fn click(&self, css: &str) -> Result<()> {
        self.with("click", css, async |element| element.click().await)
    }

    /// Clicks what leads to another page, and waits until that is there, whole.
    pub fn click_away(&self, css: &str, bound: Duration) -> Result<()> {
        self.js("window.tsugiLeft = true", Vec::new())?;
        self.click(css)?;
        self.wait(&format!("the page behind {css}"), bound, "!window.tsugiLeft && document.readyState === 'complete'").map(drop)
    }

    /// Empties a field and types.
    pub fn type_into(&self, css: &str, text: &str) -> Result<()> {
        self.with("type into", css, async |element| {
            element.clear().await?;
            element.send_keys(text).await
        })
    }

    /// Text of the first element that matches, as it is seen.
    pub fn text(&self, css: &str) -> Result<String> {
        self.with("text of", css, async |element| element.text().await)
    }

    /// Texts of all elements that match.
    pub fn texts(&self, css: &str) -> Result<Vec<String>> {
        let begin = Instant::now();
        loop {
            let texts = self.runtime.block_on(async {
                let mut texts = Vec::new();
                for element in self.driver().find_all(By::Css(css.to_owned())).await? {
                    texts.push(element.text().await?);
                }
                Ok(texts)
            });
            match texts {
                Err(error) if is_renewed(&error) && begin.elapsed() < RENEWAL_BOUND => {}
                texts => return texts.with_context(|| format!("texts of {css}")),
            }
        }
    }

    /// Attribute of the first element that matches.
    pub fn attr(&self, css: &str, name: &str) -> Result<String> {
        let value = self.with("attribute of", css, async |element| element.attr(name.to_owned()).await)?;
        Ok(value.unwrap_or_default())
    }

    /// Value of a cookie, also of one that scripts cannot read.
    pub fn cookie(&self, name: &str) -> Result<String> {
        Ok(self.runtime.block_on(self.driver().get_named_cookie(name.to_owned()))?.value)
    }

    fn devtools(&self, method: &str, params: Value) -> Result<Value> {
        self.runtime.block_on(self.driver().cdp().send_raw(method, params)).with_context(|| method.to_owned())
    }

    /// Size of the page's part of the window.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size).map(drop)
    }

    /// Switches the scripts of pages opened from now on off or on.
    pub fn set_scripts(&self, is_on: bool) -> Result<()> {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({"value": !is_on})).map(drop)
    }

    /// A picture of what is seen, kept as `folder/name.png`.
    pub fn shoot(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("{name}.png"));
        self.runtime.block_on(self.driver().screenshot(&path)).with_context(|| format!("picture {name}"))?;
        Ok(path)
    }

    /// Complaints in the browser's console since the last call: errors and warnings, refused policies among them.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let log = self.runtime.block_on(self.driver().get_log("browser"))?;
        let is_loud = |level: &str| !matches!(level, "INFO" | "DEBUG" | "FINE" | "FINER" | "FINEST");
        Ok(log.into_iter().filter(|e| is_loud(&e.level)).map(|e| format!("{}: {}", e.level, e.message)).collect())
    }

    /// Every address asked for since the last call, web sockets included.
    pub fn requested(&self) -> Result<Vec<String>> {
        let log = self.runtime.block_on(self.driver().get_log("performance"))?;
        let address = |text: &str| {
            let message: Value = serde_json::from_str(text).ok()?;
            let message = &message["message"];
            let url = match message["method"].as_str()? {
                "Network.requestWillBeSent" => &message["params"]["request"]["url"],
                "Network.webSocketCreated" => &message["params"]["url"],
                _ => return None,
            };
            url.as_str().map(str::to_owned)
        };
        Ok(log.iter().filter_map(|e| address(&e.message)).collect())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.take() {
            let end = self.runtime.block_on(async { tokio::time::timeout(QUIT_BOUND, driver.quit()).await });
            if !matches!(end, Ok(Ok(()))) {
                eprintln!("the browser did not end in order and is killed");
            }
        }
        let group = nix::unistd::Pid::from_raw(self.chromedriver.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.chromedriver.wait();
        for pid in processes_of(self.profile.path()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// A live page put a new element where the one was that had just been found, or is about to put one there.
fn is_renewed(error: &WebDriverError) -> bool {
    matches!(**error, WebDriverErrorInner::StaleElementReference(_) | WebDriverErrorInner::NoSuchElement(_))
}

/// As JavaScript sees it.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

fn start_chromedriver(home: &Path) -> Result<(Child, u16)> {
    let mut command = Command::new("chromedriver");
    command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // What Chromium keeps beside its profile goes away with it, too.
    command.env("HOME", home).env_remove("DISPLAY").env_remove("DBUS_SESSION_BUS_ADDRESS");
    for (name, dir) in [("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache"), ("XDG_DATA_HOME", "data"), ("XDG_RUNTIME_DIR", "run")] {
        command.env(name, home.join(dir));
    }
    command.process_group(0);
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent's.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?));
    }
    let mut child = command.spawn().context("chromedriver cannot be started (Debian: chromium-driver)")?;
    let out = child.stdout.take().context("no output of chromedriver")?;
    let (say, hear) = std::sync::mpsc::channel();
    // Reads to the end, so that chromedriver never waits for its output to be read.
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if let Some(port) = line.split("started successfully on port ").nth(1) {
                let _ = say.send(port.trim_end_matches('.').parse::<u16>());
            }
        }
    });
    match hear.recv_timeout(START_BOUND) {
        Ok(Ok(port)) => Ok((child, port)),
        _ => {
            let _ = child.kill();
            let _ = child.wait();
            bail!("chromedriver does not say its port")
        }
    }
}

/// Processes that name this directory on their command line: only this browser's do.
fn processes_of(dir: &Path) -> Vec<i32> {
    let marker = dir.display().to_string();
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    all.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(&marker)))
        .collect()
}
