//! Reports for people: that the page is HTML that stands alone, that each form says what was found, that a stranger's
//! names are shown and not acted on; and in a real browser that everything drawn has its place.
//!
//! The modules of the command line are compiled in: a test cannot link a binary. The browser's test is skipped where no
//! Chromium is installed, unless `GEMMA_CONVERT_BROWSER=require` is set, as `.ci/run` does.

use std::fs;

use html5ever::tendril::TendrilSink;
use markup5ever_rcdom::{Handle, NodeData, RcDom};
use report::Detail;
use verify::Report;

use crate::support::{chromium, reports};

/// An element, without its namespace.
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    /// All text below it.
    text: String,
}

impl Element {
    fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(attribute, _)| attribute == name).map(|(_, value)| value.as_str())
    }
}

/// The elements of a page in their order, and what a browser would complain about.
fn parse(page: &str) -> (Vec<Element>, Vec<String>) {
    let dom: RcDom = html5ever::parse_document(RcDom::default(), Default::default()).one(page);
    let mut elements = Vec::new();
    collect(&dom.document, &mut elements);
    let errors = dom.errors.borrow().iter().map(|error| error.to_string()).collect();
    (elements, errors)
}

fn collect(node: &Handle, elements: &mut Vec<Element>) -> String {
    let at = elements.len();
    let text = match &node.data {
        NodeData::Element { name, attrs, .. } => {
            let attributes =
                attrs.borrow().iter().map(|a| (a.name.local.to_string(), a.value.to_string())).collect();
            elements.push(Element { name: name.local.to_string(), attributes, text: String::new() });
            String::new()
        }
        NodeData::Text { contents } => contents.borrow().to_string(),
        _ => String::new(),
    };
    let text = node.children.borrow().iter().fold(text, |text, child| text + &collect(child, elements));
    if matches!(node.data, NodeData::Element { .. }) {
        elements[at].text.clone_from(&text);
    }
    text
}

fn page(report: &Report) -> Vec<Element> {
    parse(&report::html(report)).0
}

fn texts<'a>(elements: &'a [Element], name: &str) -> Vec<&'a str> {
    elements.iter().filter(|e| e.name == name).map(|e| e.text.as_str()).collect()
}

#[test]
fn every_page_is_html_without_an_error_and_of_modest_size() {
    for (name, report) in reports::all() {
        let page = report::html(&report);
        assert_eq!(parse(&page).1, [""; 0], "{name}");
        assert!(!page.contains("NaN") && !page.contains("inf\""), "{name}");
        assert!(page.len() <= 300_000, "{name}: {} bytes", page.len());
    }
    assert_ne!(
        parse("<!DOCTYPE html><p><table><p>").1,
        [""; 0],
        "a parser that sees no errors proves nothing"
    );
}

#[test]
fn a_page_refers_to_nothing_outside_it() {
    for (name, report) in reports::all() {
        let elements = page(&report);
        let policy =
            elements.iter().find(|e| e.get("http-equiv") == Some("Content-Security-Policy")).unwrap();
        assert!(policy.get("content").unwrap().starts_with("default-src 'none'"));
        for element in &elements {
            let tag = element.name.as_str();
            assert!(
                !["script", "iframe", "object", "embed", "image", "use", "base"].contains(&tag),
                "{name}: {tag}"
            );
            for (attribute, value) in &element.attributes {
                assert!(!attribute.starts_with("on"), "{name}: {tag} {attribute}");
                let loads = ["src", "href", "srcset", "xlink:href", "style", "data", "action"]
                    .contains(&attribute.as_str());
                let is_inside =
                    value == "data:," || tag == "img" && value.starts_with("data:image/png;base64,");
                assert!(!loads || is_inside, "{name}: {tag} {attribute}={value}");
            }
            assert!(
                tag != "style" || !(element.text.contains("url(") || element.text.contains("@import")),
                "{name}"
            );
        }
    }
}

#[test]
fn a_page_has_every_plot_every_figure_and_headed_tables() {
    let report = reports::good();
    let elements = page(&report);
    let headings = texts(&elements, "h2");
    for plot in [
        "KL divergence along the text",
        "Error by layer and role",
        "Distribution of Δp",
        "Size by role",
        "Bit allocation",
    ] {
        assert!(headings.contains(&plot), "{plot}");
        let svg = elements
            .iter()
            .filter(|e| e.name == "svg")
            .find(|e| e.get("aria-label").unwrap().starts_with(plot));
        assert_eq!(svg.unwrap_or_else(|| panic!("{plot}")).get("role"), Some("img"));
    }
    let cells = [texts(&elements, "td"), texts(&elements, "th")].concat();
    for cell in [
        "19.812",
        "20.234",
        "1.0213",
        "0.0331",
        "0.0124",
        "0.304",
        "1.21",
        "3.87",
        "94.14 %",
        "−0.330 %",
        "2.58 %",
        "0.0302 to 0.0361",
        "18.920 to 20.770",
        "≤ 0.0500 holds",
        "≥ 92.00 % holds",
        "general.name",
        "2.81 GiB",
        "6.00",
    ] {
        assert!(cells.contains(&cell), "{cell}");
    }
    assert!(
        elements
            .iter()
            .filter(|e| e.name == "th")
            .all(|th| ["row", "col"].contains(&th.get("scope").unwrap_or("")))
    );
    let (titles, tensors) = (texts(&elements, "title"), report.tensors.unwrap());
    for tensor in tensors.tensors.iter().filter(|tensor| tensor.relative > 0.0) {
        assert!(
            titles.iter().any(|title| title.starts_with(&format!("{},", tensor.name))),
            "{}",
            tensor.name
        );
    }
    for point in &report.text.unwrap().along {
        assert!(titles.iter().any(|t| t.starts_with(&format!("document {}, token", point.document))));
    }
    assert!(elements.iter().any(|e| e.get("title") == Some("0.0331")), "the exact number");
}

#[test]
fn what_was_not_measured_is_not_drawn() {
    let drawn = |report: &Report| page(report).iter().filter(|e| e.name == "svg").count();
    assert_eq!(drawn(&reports::refused()), 0);
    assert_eq!(drawn(&Report::default()), 0);
    assert_eq!(drawn(&reports::one()), 4);
    // Where all is 0, a log scale has nothing to show; a sentence says so.
    let identical = page(&reports::identical());
    let labels: Vec<_> =
        identical.iter().filter_map(|e| e.get("aria-label")).filter(|l| l.starts_with("Size")).collect();
    assert!(!labels.is_empty());
    assert_eq!(identical.iter().filter(|e| e.name == "svg").count(), 1);
    assert!(texts(&identical, "p").contains(&"It is 0 at every token: both models predict the same."));
    assert!(texts(&identical, "p").contains(&"Every tensor is exactly that of the base."));
}

/// Images and spectrograms are in the page, with their names and errors, and a plot has a curve for each.
#[test]
fn a_page_shows_images_and_sounds_with_their_errors() {
    let elements = page(&reports::large());
    let pictures: Vec<_> = elements.iter().filter(|e| e.name == "img").collect();
    let names: Vec<_> = pictures.iter().map(|img| img.get("alt").unwrap()).collect();
    assert_eq!(names, ["photos/<b>wide</b>.png", "sounds/talk.wav"]);
    let captions = texts(&elements, "figcaption");
    assert!(captions.contains(&"photos/<b>wide</b>.png: 1.02 %"), "{captions:?}");
    assert!(texts(&elements, "h2").contains(&"Error after each block of the towers"));
    let points =
        texts(&elements, "title").iter().filter(|title| title.starts_with("sounds/talk.wav, block")).count();
    assert_eq!(points, 12);
}

/// What a draft is worth has a page too: one plot, a row for each burst size, the best of them marked.
#[test]
fn the_page_of_a_draft_is_html_without_an_error_and_has_its_figures() {
    let burst = |guesses: usize| draft::Burst {
        guesses,
        accepted: 1.0 - 0.5f64.powi(guesses as i32),
        implied: 1.5 - 0.1 * guesses as f64,
        ideal: 1.6,
        ..Default::default()
    };
    let measured = draft::Measured { guesses: 1, speedup: 1.25, same_text: true, ..Default::default() };
    let mut report = draft::DraftReport { best: 1, measured, ..Default::default() };
    report.bursts = (1..=8).map(burst).collect();
    report.draft.path = "<b>draft</b>.gguf".to_owned();
    let (elements, errors) = parse(&report::draft_html(&report));
    assert_eq!(errors, [""; 0]);
    assert_eq!(texts(&elements, "h1"), ["Draft model <b>draft</b>.gguf"]);
    assert_eq!(elements.iter().filter(|element| element.name == "tr").count(), 1 + 2 + 1 + 8);
    assert_eq!(texts(&elements, "svg").len(), 1);
    let good: Vec<_> = elements.iter().filter(|element| element.get("class") == Some("good")).collect();
    assert_eq!(good.iter().map(|element| element.text.as_str()).collect::<Vec<_>>(), ["1.40"]);
    for form in [report::draft_text(&report), report::draft_markdown(&report)] {
        assert!(form.contains("1 draft token per burst: the same text, 1.25 times as fast"), "{form}");
    }
    // another text is said so, loudly
    report.measured.same_text = false;
    assert!(
        report::draft_html(&report)
            .contains("<p class=\"verdict fail\">1 draft token per burst: DIFFERENT TEXT")
    );
}

#[test]
fn names_from_a_file_are_shown_and_not_acted_on() {
    let report = reports::large();
    let shown = "Verification of out/<script>alert(\"1\")</script>|`x`&\u{fffd}[31m.gguf";
    assert_eq!(texts(&page(&report), "h1"), [shown]);
    for text in [report::html(&report), report::text(&report, Detail::Full), report::markdown(&report)] {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
    }
    let markdown = report::markdown(&report);
    assert!(
        markdown.contains("| ``out/<script>alert(\"1\")</script>\\|`x`&\u{fffd}[31m.gguf`` |"),
        "{markdown}"
    );
}

#[test]
fn each_form_has_the_verdict_the_findings_and_the_figures() {
    let verdicts = [
        (reports::good(), "Passed: structure, tensors, text checked; 3 of 3 limits hold"),
        (reports::large(), "Failed: 3 failures; 1 warning; 1 of 3 limits hold"),
        (reports::refused(), "Failed: 140 failures; not run: tensors, text"),
    ];
    for (report, verdict) in verdicts {
        let (text, markdown) = (report::text(&report, Detail::Full), report::markdown(&report));
        assert_eq!(text.lines().last(), Some(verdict));
        assert!(markdown.starts_with("\n### ") && markdown.lines().any(|line| line == verdict), "{markdown}");
        assert_eq!(texts(&page(&report), "p")[0], verdict);
        for finding in report.findings.iter().take(20) {
            assert!(text.contains(&finding.place) && markdown.contains(&format!("`{}`", finding.place)));
        }
    }
    let large = reports::large();
    let problem = "\nfailure (tensors): blk.17.attn_q.weight\n  its weights are those of blk.17.attn_k.weight in another \
                   order: Q and K of this layer are exchanged\n  expected: cosine ≥ 0.99\n  found: 0.013\n";
    assert!(report::text(&large, Detail::Full).contains(problem));
    assert!(report::text(&large, Detail::Full).contains("≤ 0.0500 FAILS"));
    assert!(report::text(&reports::refused(), Detail::Full).contains("… and 110 more findings"));
    let good = report::text(&reports::good(), Detail::Full);
    for line in [
        "KL divergence, mean (nats)       0.0331      0.0302 to 0.0361  ≤ 0.0500 holds",
        "attn_q                     35  Q4_0   210 MiB  59.1 MiB          8.10 %   0.00170  0.996719",
        "text: eval.txt, plain: 16 chunks of at most 512 tokens, 4,320 tokens scored",
        "time: structure 80 ms, tensors 14.2 s, text 6 min 52 s",
    ] {
        assert!(good.lines().any(|l| l == line), "{line}\n{good}");
    }
}

#[test]
fn markdown_tables_have_as_many_cells_in_each_row_as_in_their_head() {
    for (name, report) in reports::all() {
        let markdown = report::markdown(&report);
        // A bar in a cell is escaped.
        let bars = |line: &str| line.matches('|').count() - line.matches("\\|").count();
        let lines: Vec<_> = markdown.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair.iter().all(|line| line.starts_with('|'))) {
            assert_eq!(bars(pair[0]), bars(pair[1]), "{name}: {pair:?}");
        }
        assert!(markdown.len() < 16_000, "{name}");
    }
}

/// `docs/report.md` is the contract of `--json`.
mod schema {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::Report;
    use crate::support::reports;

    fn document() -> String {
        std::fs::read_to_string(testkit::root().join("docs/report.md")).unwrap()
    }

    /// `tensors.roles[].relative`, of all values. Keys that are names of a file's or a user's are `*`.
    fn keys(value: &Value, at: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let named = ["types", "intervals", "seconds"].iter().any(|map| at.ends_with(map));
                    let at = format!(
                        "{at}{}{}",
                        if at.is_empty() { "" } else { "." },
                        if named { "*" } else { key }
                    );
                    found.insert(at.clone());
                    keys(value, &at, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| keys(item, &format!("{at}[]"), found)),
            _ => {}
        }
    }

    fn keys_of(report: &Report) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        keys(&serde_json::to_value(report).unwrap(), "", &mut found);
        found
    }

    #[test]
    fn every_key_is_documented_and_no_other() {
        let written: BTreeSet<_> = reports::all().iter().flat_map(|(_, report)| keys_of(report)).collect();
        let document = document();
        let rows = document
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(key, _)| key));
        let documented: BTreeSet<_> = rows.map(str::to_owned).collect();
        assert_eq!(written, documented);
    }

    #[test]
    fn the_example_is_a_report_and_has_nothing_else() {
        let document = document();
        let example = document.split_once("```json\n").unwrap().1.split_once("```").unwrap().0;
        let value: Value = serde_json::from_str(example).unwrap();
        let report: Report = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&report).unwrap(), value);
    }
}

/// Runs in the page: the size of each drawing, what lies outside it, texts that lie on each other, requests, and
/// whether the page itself is wider than the window.
const MEASURE: &str = r#"<script>
const all = (node, what) => [...node.querySelectorAll(what)];
const drawings = all(document, "svg").map(svg => {
  const outer = svg.getBoundingClientRect();
  const boxes = all(svg, "rect,circle,path,line,text").map(node => [node, node.getBoundingClientRect()]);
  const outside = boxes.filter(([, b]) =>
    b.left < outer.left - 1 || b.right > outer.right + 1 || b.top < outer.top - 1 || b.bottom > outer.bottom + 1);
  const texts = boxes.filter(([node]) => node.tagName === "text");
  const overlaps = texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([b, q]) =>
    p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3)
    .map(([b]) => a.textContent + " / " + b.textContent));
  const empty = boxes.filter(([node, b]) => node.tagName === "text" && (b.width < 1 || b.height < 1));
  return { width: outer.width, height: outer.height, shapes: boxes.length, empty: empty.length,
    outside: outside.map(([node]) => node.textContent || node.outerHTML), overlaps };
});
const pre = document.createElement("pre");
pre.id = "layout";
pre.textContent = JSON.stringify({ drawings, requests: performance.getEntriesByType("resource").length,
  window: innerWidth, page: document.documentElement.scrollWidth });
document.body.append(pre);
</script></body>"#;

#[test]
fn in_a_browser_everything_drawn_has_its_place() {
    let Some(browser) = chromium::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, report) in reports::all() {
        let page = report::html(&report);
        let measured = page
            .replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
            .replace("</body>", MEASURE);
        assert_eq!(measured.matches("script-src").count(), 1);
        let file = dir.path().join(format!("{name}.html"));
        fs::write(&file, measured).unwrap();
        for width in [1200, 400] {
            let output = chromium::command(&browser, dir.path())
                .arg("--dump-dom")
                .arg(format!("--window-size={width},1000"))
                .arg(format!("file://{}", file.display()))
                .output()
                .unwrap();
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{log}");
            assert!(!log.contains("CONSOLE"), "{name}: the page has something to complain about\n{log}");
            let (elements, _) = parse(&String::from_utf8_lossy(&output.stdout));
            let layout = elements.iter().find(|e| e.get("id") == Some("layout")).expect("the script ran");
            let layout: serde_json::Value = serde_json::from_str(&layout.text).unwrap();
            assert_eq!(layout["requests"], 0, "{name}");
            assert!(layout["page"].as_f64() <= layout["window"].as_f64(), "{name} at {width}: {layout}");
            let drawings = layout["drawings"].as_array().unwrap();
            assert_eq!(drawings.len(), page.matches("<svg").count(), "{name}");
            for drawing in drawings {
                let size = ["width", "height", "shapes"].map(|key| drawing[key].as_f64().unwrap());
                assert!(size[0] >= 700.0 && size[1] >= 60.0 && size[2] >= 5.0, "{name}: {drawing}");
                assert_eq!(drawing["empty"], 0, "{name}: {drawing}");
                for fault in ["outside", "overlaps"] {
                    assert_eq!(
                        drawing[fault].as_array().unwrap().len(),
                        0,
                        "{name} at {width}, {fault}: {drawing}"
                    );
                }
            }
        }
    }
}
