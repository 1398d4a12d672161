//! A headless Chromium, driven by WebDriver (<https://www.w3.org/TR/webdriver2/>)
//! over plain HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use super::{Running, eventually};

/// The Enter key, as WebDriver encodes it.
pub const ENTER: char = '\u{e007}';
/// The Control key.
pub const CONTROL: char = '\u{e009}';
/// The Shift key.
pub const SHIFT: char = '\u{e008}';
/// The Tab key.
pub const TAB: char = '\u{e004}';
/// The Escape key.
pub const ESCAPE: char = '\u{e00c}';
/// The Down arrow key.
pub const DOWN: char = '\u{e015}';
/// The F6 key.
pub const F6: char = '\u{e036}';

/// Returns the reason why this machine cannot run browser tests, if there is one.
pub fn missing() -> Option<&'static str> {
    if !super::has("chromedriver") || !super::has("chromium") {
        return Some("no chromium or no chromedriver");
    }
    None
}

/// A browser window, which is closed on drop.
pub struct Browser {
    port: u16,
    session: String,
    driver: Running,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Opens a headless window of this size in pixels.
    pub fn open(width: u32, height: u32) -> Self {
        Self::open_with(width, height, &[])
    }

    /// Opens a window; passes additional arguments to Chromium.
    pub fn open_with(width: u32, height: u32, more: &[&str]) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver runs");
        let mut lines = BufReader::new(driver.stdout.take().expect("stdout")).lines();
        let driver = Running(driver);
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, port) = line.split_once("started successfully on port ")?;
                port.trim_end_matches('.').parse().ok()
            })
            .expect("chromedriver names its port");
        // Drains the pipe, because chromedriver blocks once it is full.
        std::thread::spawn(move || lines.for_each(drop));
        let profile = tempfile::tempdir().expect("a folder");
        let mut arguments = vec![
            "--headless=new".into(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--disable-quic".into(),
            "--no-first-run".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--disable-sync".into(),
            "--disable-dev-shm-usage".into(),
            format!("--user-data-dir={}", profile.path().display()),
            format!("--window-size={width},{height}"),
        ];
        arguments.extend(more.iter().map(|a| String::from(*a)));
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        }}});
        let made = send(port, "POST", "/session", Some(&wanted)).expect("a session");
        let session = made["sessionId"].as_str().expect("its name").to_owned();
        Self {
            port,
            session,
            driver,
            _profile: profile,
        }
    }

    /// Returns the process ID of chromedriver, the ancestor of all the browser's processes.
    pub fn process(&self) -> u32 {
        self.driver.0.id()
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let path = format!("/session/{}{path}", self.session);
        match send(self.port, method, &path, body) {
            Ok(value) => value,
            Err(e) => panic!("{method} {path}: {e}"),
        }
    }

    /// Navigates to `url` and waits until it has loaded.
    #[track_caller]
    pub fn go(&self, url: &str) {
        self.call("POST", "/url", Some(&json!({ "url": url })));
    }

    /// Runs JavaScript in the page and returns its result.
    #[track_caller]
    pub fn run(&self, script: &str, arguments: &[Value]) -> Value {
        let body = json!({ "script": script, "args": arguments });
        self.call("POST", "/execute/sync", Some(&body))
    }

    /// Returns the page's visible text.
    #[track_caller]
    pub fn text(&self) -> String {
        let text = self.run("return document.body.innerText", &[]);
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page's text contains all of `parts`.
    #[track_caller]
    pub fn sees(&self, parts: &[&str]) {
        let mut last = String::new();
        let deadline = std::time::Instant::now() + super::LIMIT;
        loop {
            let text = self.text();
            let missing: Vec<_> = parts.iter().filter(|p| !text.contains(**p)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "the page never showed {missing:?}; the console says {:#?}; it shows:\n{last}",
                self.complaints()
            );
            last = text;
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until `script` returns a truthy value, and returns it.
    #[track_caller]
    pub fn until(&self, what: &str, script: &str) -> Value {
        let deadline = std::time::Instant::now() + super::LIMIT;
        loop {
            let value = self.run(script, &[]);
            let nothing = matches!(&value, Value::Null | Value::Bool(false))
                || value.as_str().is_some_and(str::is_empty);
            if !nothing {
                return value;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "waited in vain for {what}; the console says {:#?}; the page shows:\n{}",
                self.complaints(),
                self.run("return document.querySelector('main')?.innerText", &[])
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Clicks on the last button or link with this text. Waits until it exists.
    #[track_caller]
    pub fn click(&self, text: &str) {
        const CLICK: &str = "
            const all = [...document.querySelectorAll('dialog button, main button, main a, main .thing')];
            const it = all.filter((e) => e.textContent.trim() === arguments[0] && !e.disabled).pop();
            if (!it) return false;
            it.click();
            return true;";
        eventually(&format!("a button {text}"), || {
            (self.run(CLICK, &[json!(text)]) == json!(true)).then_some(())
        });
    }

    /// Types each character of `text`. Modifier keys stay pressed until the end.
    #[track_caller]
    pub fn keys(&self, text: &str) {
        let mut actions = Vec::new();
        let modifiers = [CONTROL, SHIFT];
        for key in text.chars() {
            actions.push(json!({ "type": "keyDown", "value": key }));
            if !modifiers.contains(&key) {
                actions.push(json!({ "type": "keyUp", "value": key }));
            }
        }
        for key in modifiers.iter().filter(|m| text.contains(**m)) {
            actions.push(json!({ "type": "keyUp", "value": key }));
        }
        let body = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.call("POST", "/actions", Some(&body));
    }

    /// Sends a command of the Chrome DevTools Protocol.
    #[track_caller]
    pub fn command(&self, name: &str, parameters: &Value) -> Value {
        let body = json!({ "cmd": name, "params": parameters });
        self.call("POST", "/goog/cdp/execute", Some(&body))
    }

    /// Emulates a phone with a screen of this width.
    #[track_caller]
    pub fn narrow(&self, width: u32) {
        self.command(
            "Emulation.setDeviceMetricsOverride",
            &json!({ "width": width, "height": 740, "deviceScaleFactor": 1, "mobile": true }),
        );
    }

    /// Emulates media features, each given by name (`prefers-…`) and value.
    #[track_caller]
    pub fn prefers(&self, wishes: &[(&str, &str)]) {
        let features: Vec<Value> = wishes
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        self.command(
            "Emulation.setEmulatedMedia",
            &json!({ "features": features }),
        );
    }

    /// Selects a file in the first file input of the page.
    #[track_caller]
    pub fn upload(&self, file: &Path) {
        let wanted = json!({ "using": "css selector", "value": "input[type=file]" });
        let found = self.call("POST", "/element", Some(&wanted));
        let element = found
            .as_object()
            .and_then(|o| o.values().next()?.as_str())
            .expect("an element");
        let path = format!("/element/{element}/value");
        let text = file.display().to_string();
        self.call("POST", &path, Some(&json!({ "text": text })));
    }

    /// Sets the directory for downloads.
    #[track_caller]
    pub fn downloads(&self, folder: &Path) {
        self.command(
            "Browser.setDownloadBehavior",
            &json!({ "behavior": "allow", "downloadPath": folder }),
        );
    }

    /// Replaces the value of a field and fires the events of user input.
    #[track_caller]
    pub fn fill(&self, selector: &str, text: &str) {
        self.until(
            &format!("a field {selector}"),
            &format!("return !!document.querySelector({})", json!(selector)),
        );
        self.run(
            "const i = document.querySelector(arguments[0]); i.focus(); i.value = arguments[1];
             i.dispatchEvent(new InputEvent('input', { bubbles: true })); i.dispatchEvent(new Event('change', { bubbles: true }))",
            &[json!(selector), json!(text)],
        );
    }

    /// Saves a screenshot of the page as PNG.
    #[track_caller]
    pub fn picture(&self, file: &Path) {
        let data = self.call("GET", "/screenshot", None);
        let data = data.as_str().expect("base64");
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(data)
            .expect("base64");
        std::fs::write(file, bytes).expect("a picture can be written");
    }

    /// Returns the console's warnings and errors since the last call.
    #[track_caller]
    pub fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", Some(&json!({ "type": "browser" })));
        log.as_array()
            .into_iter()
            .flatten()
            .filter(|l| l["level"] == "SEVERE" || l["level"] == "WARNING")
            .map(|l| l["message"].as_str().unwrap_or_default().to_owned())
            // Chromium aborts requests when a network interface of the host appears or
            // disappears. Tests that run in parallel cause that, and pages have to retry.
            .filter(|message| !message.ends_with("net::ERR_NETWORK_CHANGED"))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Deleting the session ends Chromium. Dropping `driver` then ends chromedriver.
        let _ = send(
            self.port,
            "DELETE",
            &format!("/session/{}", self.session),
            None,
        );
    }
}

/// Sends a WebDriver command and returns its `value` or its error.
fn send(port: u16, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let text = match (method, body) {
        (_, Some(body)) => body.to_string(),
        ("POST", None) => "{}".into(),
        _ => String::new(),
    };
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(super::LIMIT))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )?;
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = exchange().map_err(|e| e.to_string())?;
    let answer: Value = serde_json::from_str(&answer).map_err(|e| format!("{e}: {answer}"))?;
    match answer["value"].get("error") {
        Some(error) => Err(format!("{error}: {}", answer["value"]["message"])),
        None => Ok(answer["value"].clone()),
    }
}
