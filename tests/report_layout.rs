//! The layout of a report in a real browser: everything drawn has its place, on a wide screen and on a phone, and can be
//! read, in light and in dark.
//!
//! Skipped where no Chromium is installed, unless `GEMMA_CONVERT_BROWSER=require` is set, as `.ci/run` does.

use std::fs;
use std::path::Path;

use crate::support::html::{of_class, parse};
use crate::support::{chromium, reports};

/// Runs in the page: the size of each drawing, what lies outside it, texts that lie on each other, requests, and
/// whether the page itself is wider than the window.
const MEASURE: &str = r#"<script>
const all = (node, what) => [...node.querySelectorAll(what)];
const drawings = all(document, "svg.plot").filter(svg => svg.checkVisibility()).map(svg => {
  const outer = svg.getBoundingClientRect();
  const boxes = all(svg, "rect,circle,path,line,text").map(node => [node, node.getBoundingClientRect()]);
  const outside = boxes.filter(([, b]) =>
    b.left < outer.left - 1 || b.right > outer.right + 1 || b.top < outer.top - 1 || b.bottom > outer.bottom + 1);
  const texts = boxes.filter(([node]) => node.tagName === "text");
  const overlaps = texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([b, q]) =>
    p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3)
    .map(([b]) => a.textContent + " / " + b.textContent));
  const empty = boxes.filter(([node, b]) => node.tagName === "text" && (b.width < 1 || b.height < 1));
  // the height of a letter on the screen
  const letters = parseFloat(getComputedStyle(svg).fontSize) * outer.width / svg.viewBox.baseVal.width;
  return { width: outer.width, height: outer.height, shapes: boxes.length, empty: empty.length, letters,
    outside: outside.map(([node]) => node.textContent || node.outerHTML), overlaps };
});
// The least contrast of a text with the colour behind it, by the WCAG's formula.
const rgb = colour => (colour.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = node => {
  for (; node; node = node.parentElement) {
    const [r, g, b, a = 1] = rgb(getComputedStyle(node).backgroundColor);
    if (a > 0) return [r, g, b];
  }
  return [255, 255, 255];
};
const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const cells = all(document, "svg.plot rect[class^=c]").filter(rect => !/^c( |$)/.test(rect.getAttribute("class")));
const contrasts = all(document, "p,th,td,figcaption,summary,h1,h2,a,dt,dd,code,small,.good,.bad")
  .filter(node => node.textContent.trim()).map(node => contrast(rgb(getComputedStyle(node).color), behind(node)))
  .concat(all(document, "svg.plot text").map(node => contrast(rgb(getComputedStyle(node).fill), behind(node))))
  .concat(cells.map(cell => contrast(rgb(getComputedStyle(cell).fill), rgb(getComputedStyle(document.body).color))));
parent.postMessage(JSON.stringify({ drawings, requests: performance.getEntriesByType("resource").length,
  window: innerWidth, page: document.documentElement.scrollWidth, contrast: Math.min(...contrasts) }), "*");
</script></body>"#;

#[test]
fn in_a_browser_everything_drawn_has_its_place() {
    let Some(browser) = chromium::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, report) in reports::all() {
        let page = report::html(&report);
        let drawn = of_class(&parse(&page).0, "wide").len();
        let measured = page
            .replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
            .replace("<details", "<details open")
            .replace("</body>", MEASURE);
        assert_eq!(measured.matches("script-src").count(), 1);
        let file = dir.path().join(format!("{name}.html"));
        fs::write(&file, measured).unwrap();
        // a wide screen, the widest phone that stacks, a usual one in the dark, the narrowest
        for (width, dark) in [(1200, false), (740, false), (400, true), (360, false)] {
            let place = format!("{name} at {width}");
            let layout = layout(&browser, dir.path(), &file, width, dark);
            assert_eq!(layout["requests"], 0, "{place}");
            assert_eq!(layout["window"], width, "{place}");
            assert!(layout["page"].as_f64() <= layout["window"].as_f64(), "{place}: {layout}");
            assert!(layout["contrast"].as_f64() >= Some(4.5), "{place}: {layout}");
            let drawings = layout["drawings"].as_array().unwrap();
            assert_eq!(drawings.len(), drawn, "{place}");
            for drawing in drawings {
                let size = ["width", "height", "shapes"].map(|key| drawing[key].as_f64().unwrap());
                let least = if width > 760 { 700.0 } else { 300.0 };
                assert!(size[0] >= least && size[1] >= 60.0 && size[2] >= 5.0, "{place}: {drawing}");
                assert!(drawing["letters"].as_f64() >= Some(9.0), "{place}: {drawing}");
                assert_eq!(drawing["empty"], 0, "{place}: {drawing}");
                for fault in ["outside", "overlaps"] {
                    assert_eq!(drawing[fault].as_array().unwrap().len(), 0, "{place}, {fault}: {drawing}");
                }
            }
        }
    }
}

/// What [`MEASURE`] finds in a window of this width.
fn layout(browser: &Path, home: &Path, file: &Path, width: u32, dark: bool) -> serde_json::Value {
    // a window of the browser is at least 500 wide: the page is in a frame
    let frame = home.join("frame.html");
    let inner = fs::read_to_string(file).unwrap().replace('&', "&amp;").replace('"', "&quot;");
    let page = format!(
        "<!DOCTYPE html><meta name=\"color-scheme\" content=\"light dark\"><title>frame</title><iframe width={width} height=1000 style=\"border:0\" \
         srcdoc=\"{inner}\"></iframe><script>onmessage = e => {{ const pre = document.createElement(\"pre\"); \
         pre.id = \"layout\"; pre.textContent = e.data; document.body.append(pre); }};</script>"
    );
    fs::write(&frame, page).unwrap();
    let output = chromium::command(browser, home)
        .args(["--dump-dom", "--virtual-time-budget=5000", "--window-size=1300,1000"])
        .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)))
        .arg(format!("file://{}", frame.display()))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("CONSOLE"), "{}: the page has something to complain about\n{log}", file.display());
    let (elements, _) = parse(&String::from_utf8_lossy(&output.stdout));
    let layout = elements.iter().find(|e| e.get("id") == Some("layout")).expect("the script ran");
    serde_json::from_str(&layout.text).unwrap()
}
