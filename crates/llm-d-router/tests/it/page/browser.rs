//! A headless Chromium, driven by the DevTools protocol over a pipe.

use std::{path::Path, process::Stdio};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// What complaints a page makes, as the protocol names them.
const COMPLAINTS: [&str; 3] =
    ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"];
/// Events kept of one page; more would be a page gone wild.
const MAX_EVENTS: usize = 10_000;

/// Which colours the reader prefers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scheme {
    Light,
    Dark,
}

/// A browser with one page. It ends when it is dropped.
pub(super) struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    n_calls: u64,
    events: Vec<Value>,
}

impl Browser {
    /// Starts the program with a profile in `folder`.
    pub(super) async fn start(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        // The protocol is spoken on descriptors 3 and 4, which a shell can hand on.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
            .args(["--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let to = child.stdin.take().context("no way to the browser")?;
        let from = BufReader::new(child.stdout.take().context("no way from the browser")?);
        let mut browser = Self { child, to, from, session: None, n_calls: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(browser)
    }

    /// Shows a page at a width, and waits until it is there.
    pub(super) async fn open(
        &mut self,
        url: &str,
        width: u32,
        scheme: Scheme,
    ) -> anyhow::Result<()> {
        self.events.clear();
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await?;
        let scheme = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await?;
        // The fragment of an earlier look must not come back.
        self.call("Page.navigate", json!({ "url": "about:blank" })).await?;
        self.events.clear();
        self.call("Page.navigate", json!({ "url": url })).await?;
        while !self.has_loaded(url) {
            let message = self.read().await?;
            self.note(message);
        }
        Ok(())
    }

    /// The value of an expression in the page.
    pub(super) async fn ask(&mut self, expression: &str) -> anyhow::Result<Value> {
        let params = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", params).await?;
        if let Some(exception) = answer.get("exceptionDetails") {
            bail!("{exception}");
        }
        Ok(answer["result"]["value"].take())
    }

    /// Presses and releases the space bar.
    pub(super) async fn press_space(&mut self) -> anyhow::Result<()> {
        for (kind, text) in [("keyDown", " "), ("keyUp", "")] {
            let key = json!({ "type": kind, "key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": text });
            self.call("Input.dispatchKeyEvent", key).await?;
        }
        Ok(())
    }

    /// What the page complained of, and what it loaded besides itself.
    pub(super) fn complaints(&self, url: &str) -> Vec<&Value> {
        let is_complaint = |event: &&Value| {
            let method = event["method"].as_str().unwrap_or_default();
            let loaded = event["params"]["request"]["url"].as_str().unwrap_or(url);
            COMPLAINTS.contains(&method) || (method == "Network.requestWillBeSent" && loaded != url)
        };
        self.events.iter().filter(is_complaint).collect()
    }

    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        self.session = None;
        self.call("Browser.close", json!({})).await?;
        self.child.wait().await?;
        Ok(())
    }

    /// Whether this page is there; an event of the one before it may still come.
    fn has_loaded(&self, url: &str) -> bool {
        let shows = |event: &Value| event["params"]["frame"]["url"] == url;
        let mut since = self.events.iter().skip_while(|event| !shows(event));
        since.any(|event| event["method"] == "Page.loadEventFired")
    }

    async fn call(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.n_calls += 1;
        let mut call = json!({ "id": self.n_calls, "method": method, "params": params });
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{call}\0").as_bytes()).await?;
        loop {
            let mut message = self.read().await?;
            if message["id"] == self.n_calls {
                if let Some(error) = message.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(message["result"].take());
            }
            self.note(message);
        }
    }

    fn note(&mut self, event: Value) {
        if self.events.len() < MAX_EVENTS {
            self.events.push(event);
        }
    }

    async fn read(&mut self) -> anyhow::Result<Value> {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message).await?;
        message.pop().context("the browser has ended")?;
        Ok(serde_json::from_slice(&message)?)
    }
}
