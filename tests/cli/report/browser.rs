//! The page in a real browser, where one is installed: three widths, both colour schemes, no message on its console, nothing
//! loaded, and everything within reach of the keyboard. `GLMC_SHOTS=DIR` keeps the pictures.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{number, shared};
use crate::text;

/// A phone, a tablet, a desk.
const WIDTHS: [usize; 3] = [360, 820, 1440];

/// A browser that is spoken to in its own protocol (DevTools), through pipes.
struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    _profile: TempDir,
    session: Option<String>,
    calls: u64,
    /// What it told without being asked.
    events: Vec<Value>,
}

/// The browser's command: `GLMC_BROWSER`, or the first that there is.
fn command() -> Option<String> {
    let named = std::env::var("GLMC_BROWSER").into_iter();
    let usual = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"].map(String::from);
    let runs = |name: &String| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    named.chain(usual).find(runs)
}

impl Browser {
    /// `None`, and why on the screen, where there is no browser.
    fn open() -> Option<Browser> {
        let Some(name) = command() else {
            println!("report: skipped: no Chromium is installed (GLMC_BROWSER names one)");
            return None;
        };
        let profile = TempDir::new().expect("a temporary folder");
        // It speaks through descriptors 3 and 4.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null", &name]);
        let flags = "--headless --remote-debugging-pipe --no-sandbox --disable-gpu --disable-quic --no-first-run \
                     --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars";
        command.args(flags.split_whitespace()).arg(format!("--user-data-dir={}", text(profile.path())));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the browser starts");
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let from = BufReader::new(from);
        let mut browser = Browser { child, to, from, _profile: profile, session: None, calls: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let to = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", to)["sessionId"].as_str().expect("a session").to_string();
        browser.session = Some(session);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    fn message(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).expect("a message");
        assert_eq!(bytes.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).and_then(|()| self.to.flush()).expect("a pipe");
        loop {
            let answer = self.message();
            if answer["id"] == self.calls {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    /// Shows a page and waits until it is there.
    fn show(&mut self, page: &Path) {
        let before = self.events.len();
        self.call("Page.navigate", json!({ "url": format!("file://{}", text(page)) }));
        while !self.events[before..].iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.message();
            self.events.push(event);
        }
    }

    /// The value of an expression.
    fn value(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", asked);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    fn press(&mut self, key: &str, code: u32, letters: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut stroke = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" && !letters.is_empty() {
                stroke["text"] = letters.into();
            }
            self.call("Input.dispatchKeyEvent", stroke);
        }
    }

    fn look(&mut self, width: usize, scheme: &str) {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// Keeps a picture of the whole page, where pictures are wanted.
    fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("GLMC_SHOTS") else { return };
        let shot = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        let bytes = STANDARD.decode(shot["data"].as_str().expect("text")).expect("base64");
        fs::write(Path::new(&folder).join(format!("{name}.png")), bytes).expect("writable");
    }

    /// Whatever of these events it told, in its own words.
    fn told(&self, is_wanted: impl Fn(&Value) -> bool) -> Vec<String> {
        self.events.iter().filter(|event| is_wanted(event)).map(Value::to_string).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The least contrast (WCAG 2) of text and of the series' colours with what is behind them.
const CONTRAST: &str = r#"(() => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.fillStyle = style.getPropertyValue(name);
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => {
      const s = v / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const grounds = ["--ground", "--raised"];
  const least = (names) => Math.min(...names.flatMap((name) => grounds.map((ground) => ratio(name, ground))));
  return [least(["--ink"]), least(["--quiet"]), least(["--c0", "--c1", "--c2", "--c3", "--c4", "--c5"]), ratio("--on", "--c0")];
})()"#;

/// The least contrast of a number in a confusion matrix with its cell.
const CELLS: &str = r#"(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (...layers) => {
    for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => {
      const s = v / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = getComputedStyle(document.documentElement).getPropertyValue("--raised");
  const cells = [...document.querySelectorAll(".matrix tbody td")].filter((cell) => cell.textContent !== "");
  return Math.min(...cells.map((cell) => {
    const style = getComputedStyle(cell);
    const [a, b] = [light(ground, style.backgroundColor), light(ground, style.color)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
})()"#;

/// Text that does not fit its drawing, and drawings' letters that are too small to read.
const DRAWN: &str = r#"(() => {
  const wrong = [];
  for (const drawing of document.querySelectorAll("figure > svg")) {
    const box = drawing.getBoundingClientRect();
    for (const text of drawing.querySelectorAll("text")) {
      const { left, right, top, bottom, height } = text.getBoundingClientRect();
      if (left < box.left - 1 || right > box.right + 1 || top < box.top - 1 || bottom > box.bottom + 1 || height < 9)
        wrong.push(`${drawing.getAttribute("aria-label").slice(0, 40)}: ${text.textContent} ${height}`);
    }
  }
  return wrong;
})()"#;

/// The values of a column of the table of classes, from top to bottom, as far as they are numbers.
const COLUMN: &str = r#"((column) => [...document.querySelector("table.sorts").tBodies[0].rows]
  .map((row) => row.cells[column].dataset.value).filter((value) => value !== undefined && value !== "").map(Number))"#;

#[test]
fn a_browser_shows_it_at_every_width_in_both_schemes() {
    let Some(mut browser) = Browser::open() else { return };
    let place = shared();
    // Pages of their own, as tests run at the same time.
    let named = |line: &str, name: &str| {
        crate::ok(place.glmc(&format!("report --device cpu --out {name} --force {line}")));
        place.path(name)
    };
    let pages = [named("runs", "series.html"), named("runs/glmc-0", "single.html"), named("runs other", "mixed.html")];
    for page in &pages {
        let name = page.file_stem().expect("a name").to_str().expect("UTF-8").to_string();
        let mut grounds = Vec::new();
        for width in WIDTHS {
            for scheme in ["light", "dark"] {
                browser.look(width, scheme);
                browser.show(page);
                let what = format!("{name}, {width} pixels, {scheme}");
                let wide = number(&browser.value("document.documentElement.scrollWidth")) as usize;
                assert!(wide <= width, "{what}: the page is {wide} wide");
                assert_eq!(browser.value(DRAWN), json!([]), "{what}");
                let contrast = browser.value(CONTRAST);
                for (at, least) in [7.0, 4.5, 3.0, 4.5].into_iter().enumerate() {
                    assert!(number(&contrast[at]) >= least, "{what}: contrast {contrast}");
                }
                // Between two colours there is always one of which nothing is further off.
                let cells = number(&browser.value(CELLS));
                assert!(cells >= 3.9, "{what}: contrast of a cell {cells}");
                grounds.push((scheme, browser.value("getComputedStyle(document.body).backgroundColor")));
                browser.picture(&format!("{name}-{width}-{scheme}"));
            }
        }
        let (light, dark) = (&grounds[0].1, &grounds[1].1);
        assert_ne!(light, dark);
        assert!(grounds.iter().all(|(scheme, ground)| ground == if *scheme == "light" { light } else { dark }));
    }
    let media = json!({ "media": "print", "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser.call("Emulation.setEmulatedMedia", media);
    browser.show(&pages[0]);
    assert_eq!(
        browser.value("getComputedStyle(document.body).backgroundColor"),
        "rgb(255, 255, 255)",
        "paper is white"
    );
    browser.picture("print");

    let loaded = browser.told(|event| {
        let url = event["params"]["request"]["url"].as_str().unwrap_or_default();
        event["method"] == "Network.requestWillBeSent" && !url.starts_with("file:///") && !url.starts_with("data:")
    });
    assert!(loaded.is_empty(), "{loaded:?}");
    let console = ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"];
    let said = browser.told(|event| console.iter().any(|method| event["method"] == *method));
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn tables_sort_by_the_keyboard_and_read_the_same_without_scripts() {
    let Some(mut browser) = Browser::open() else { return };
    let place = shared();
    crate::ok(place.glmc("report --device cpu --out sorted.html --force runs"));
    let page = place.path("sorted.html");
    browser.look(1440, "light");
    browser.show(&page);
    let focus = "document.activeElement.closest('th')?.textContent.trim() ?? ''";
    let mut reached = Vec::new();
    for _ in 0..40 {
        browser.press("Tab", 9, "");
        let heading = browser.value(focus).as_str().expect("text").to_string();
        // Behind the last thing on the page comes the first again.
        if heading.is_empty() || reached.contains(&heading) {
            continue;
        }
        assert_ne!(
            browser.value("getComputedStyle(document.activeElement).outlineStyle"),
            "none",
            "{heading}: no ring"
        );
        let sorted = "document.activeElement.closest('th').getAttribute('aria-sort')";
        browser.press("Enter", 13, "\r");
        let once = browser.value(sorted);
        let column = "document.activeElement.closest('th').cellIndex";
        let first = browser.value(&format!("{COLUMN}({column})"));
        browser.press("Enter", 13, "\r");
        let twice = browser.value(sorted);
        let second = browser.value(&format!("{COLUMN}({column})"));
        let mut orders = [once.clone(), twice].map(|order| order.as_str().expect("text").to_string());
        let is_up = orders[0] == "ascending";
        let [first, second] =
            [first, second].map(|v| v.as_array().expect("values").iter().map(number).collect::<Vec<_>>());
        let (up, down) = if is_up { (&first, &second) } else { (&second, &first) };
        assert!(up.is_sorted() && down.is_sorted_by(|a, b| a >= b), "{heading}: {first:?}, {second:?}");
        orders.sort();
        assert_eq!(orders, ["ascending", "descending"], "{heading}");
        let others =
            "[...document.querySelectorAll('table.sorts th[aria-sort]')].filter((th) => th.ariaSort !== 'none').length";
        assert_eq!(browser.value(others), 1, "{heading}: one column is sorted by");
        reached.push(heading);
    }
    assert_eq!(reached, ["class", "shots", "training images", "ce", "glmc"]);
    let content = "document.querySelector('main').textContent.length";
    let with_scripts = browser.value(content);
    browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    browser.show(&page);
    assert_eq!(browser.value(content), with_scripts);
    assert_eq!(browser.value("document.querySelectorAll('button').length"), 0, "no button without its script");
}
