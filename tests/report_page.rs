//! Reports for people: that the page is HTML that stands alone, that each form says what was found, that a stranger's
//! names are shown and not acted on. Its layout is in `report_layout.rs`.

use report::Detail;
use verify::Report;

use crate::support::html::{Element, of_class, parse, texts};
use crate::support::reports;

fn page(report: &Report) -> Vec<Element> {
    parse(&report::html(report)).0
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
                // a link loads nothing until somebody follows it
                let is_link = tag == "a" && value.starts_with("https://");
                assert!(!loads || is_inside || is_link, "{name}: {tag} {attribute}={value}");
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
            .find(|e| e.get("aria-label").is_some_and(|label| label.starts_with(plot)));
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
        "✓ ≤ 0.0500 holds",
        "✓ ≥ 92.00 % holds",
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
    let drawn = |report: &Report| of_class(&page(report), "wide").len();
    assert_eq!(drawn(&reports::refused()), 0);
    assert_eq!(drawn(&Report::default()), 0);
    assert_eq!(drawn(&reports::one()), 4);
    // Where all is 0, a log scale has nothing to show; a sentence says so.
    let identical = page(&reports::identical());
    let labels: Vec<_> =
        identical.iter().filter_map(|e| e.get("aria-label")).filter(|l| l.starts_with("Size")).collect();
    assert!(!labels.is_empty());
    assert_eq!(of_class(&identical, "wide").len(), 1);
    for sentence in
        ["It is 0 at every token: both models predict the same.", "Every tensor is exactly that of the base."]
    {
        assert!(texts(&identical, "p").iter().any(|text| text.ends_with(sentence)), "{sentence}");
    }
}

/// What counts is at the head: four figures, each with its interval and its limit. What fell is tinted, and has a sign.
#[test]
fn tiles_have_what_counts() {
    let good = page(&reports::good());
    let tiles = of_class(&good, "tile");
    let named: Vec<_> = tiles.iter().map(|tile| tile.get("aria-label").unwrap()).collect();
    assert_eq!(named, ["KL divergence", "Same top token", "Perplexity ratio", "Size"]);
    let expected: [&[&str]; 4] = [
        &["0.0331 nats", "95 %: 0.0302 to 0.0361", "✓ limit ≤ 0.0500 holds"],
        &["94.14 %", "95 %: 93.62 % to 94.67 %", "✓ limit ≥ 92.00 % holds"],
        &["1.0213", "95 %: 1.0171 to 1.0257", "✓ limit ≤ 1.0500 holds"],
        &["2.81 GiB", "6.00 bits per weight", "base: 7.51 GiB, 16.00 bits"],
    ];
    for (tile, expected) in tiles.iter().zip(expected) {
        for part in expected {
            assert!(tile.text.contains(part), "{part}: {}", tile.text);
        }
    }
    assert_eq!(of_class(&good, "fell").len(), 0);
    // a bar for each, with the interval and the tick of the limit where there is one
    let count = |class| of_class(&good, class).len();
    assert_eq!([count("bar"), count("interval"), count("tick")], [4, 3, 3]);

    let large = page(&reports::large());
    let fell = of_class(&large, "fell");
    let named: Vec<_> = fell.iter().map(|tile| tile.get("aria-label").unwrap()).collect();
    assert_eq!(named, ["KL divergence", "Same top token"]);
    assert!(fell[0].text.contains("✗ limit ≤ 0.0500 FAILS"), "{}", fell[0].text);
    // soft tokens are a figure too
    let named: Vec<_> = of_class(&large, "tile").iter().map(|tile| tile.get("aria-label").unwrap()).collect();
    assert_eq!(named[3], "Error of soft tokens");
}

/// Cells have the colour of their error relative to what is usual for their type, and its letter.
#[test]
fn the_map_of_errors_is_in_multiples_of_the_usual() {
    let mut report = reports::good();
    let tensors = &mut report.tensors.as_mut().unwrap().tensors;
    let planted = tensors.iter_mut().find(|tensor| tensor.name == "blk.20.ffn_up.weight").unwrap();
    planted.relative *= 3.0;
    let usual: Vec<_> = tensors.iter().filter(|t| t.dtype == "Q4_0").map(|t| t.name.clone()).collect();
    let elements = page(&report);
    // the text of a rectangle is its tooltip
    let rect = |name: &str| {
        elements.iter().find(|e| e.name == "rect" && e.text.starts_with(&format!("{name},"))).unwrap()
    };
    let outlier = rect("blk.20.ffn_up.weight");
    assert_eq!(outlier.get("class"), Some("c6 outlier"));
    assert!(outlier.text.contains("times the usual"), "{}", outlier.text);
    let near = usual.iter().filter(|name| ["c2", "c3", "c4"].contains(&rect(name).get("class").unwrap()));
    assert!(near.count() * 10 > usual.len() * 9, "Q4_0 is usual here");
    let captions = texts(&elements, "figcaption");
    let caption = captions.iter().find(|caption| caption.contains("Colour: ")).unwrap();
    assert!(caption.contains("Q4_0 8.") && caption.contains("Outliers, in a frame: "), "{caption}");
    assert!(caption.contains("blk.20.ffn_up.weight"), "{caption}");
    let letters = of_class(&elements, "cell");
    assert!(letters.iter().any(|row| row.text == "4".repeat(35)), "a row of a type");
    let legend = elements.iter().filter(|e| e.name == "text").find(|e| e.text.contains("4 = Q4_0"));
    assert!(legend.unwrap().text.contains("6 = Q6_K"));
}

/// The tokens that diverge most come with their context and both first guesses, and nothing in them acts.
#[test]
fn the_worst_tokens_are_shown_in_their_text() {
    let elements = page(&reports::good());
    assert!(texts(&elements, "h2").contains(&"Tokens that diverge most"));
    let rows: Vec<_> = texts(&elements, "tr").into_iter().filter(|row| row.starts_with('…')).collect();
    assert_eq!(rows.len(), 20);
    for part in ["harbour is open in", "␣summer", "␣summer 61.20 %", "␣winter 23.30 %", "3.87"] {
        assert!(rows[0].contains(part), "{part}: {}", rows[0]);
    }
    assert!(rows[2].contains("…<b>if</b> (a && b) {⏎⇥") && rows[2].contains("<|image|>"), "{}", rows[2]);
}

/// Command, date, program, arithmetic, and the hash of each file; and no path of a machine.
#[test]
fn a_page_says_how_to_repeat_it_and_not_where_it_was_made() {
    let elements = page(&reports::good());
    let command = texts(&elements, "pre")[0];
    assert_eq!(
        command,
        "gemma-convert verify out/model-q4_0.gguf --against checkpoints/model --text eval.txt"
    );
    let facts = [texts(&elements, "dd"), texts(&elements, "code")].concat();
    for fact in
        ["2026-11-29T22:49:00Z", "gemma-convert 0.1.0", "avx512, amx", &"a".repeat(64), &"b".repeat(64)]
    {
        assert!(facts.contains(&fact), "{fact}");
    }

    let mut report = reports::good();
    report.artifact.path = "/srv/somebody/out/model-q4_0.gguf".to_owned();
    report.base.as_mut().unwrap().path = "/srv/somebody/checkpoints/model".to_owned();
    report.text.as_mut().unwrap().files = vec!["/srv/somebody/texts/eval.txt".to_owned()];
    report.run.files[0].path = report.artifact.path.clone();
    let problem = "not as in /srv/somebody/out/manifest.json";
    report.findings[0].problem = problem.to_owned();
    let page = report::html(&report);
    assert!(!page.contains("somebody"), "{page}");
    assert!(page.contains("Verification of model-q4_0.gguf") && page.contains("not as in manifest.json"));
}

/// What a plot shows already is folded, and each figure is explained with a link.
#[test]
fn tables_are_folded_and_figures_explained() {
    let elements = page(&reports::good());
    let folded = texts(&elements, "summary");
    for table in
        ["All figures", "Quantiles of Δp", "Tensors with the largest error", "Size and error by role"]
    {
        assert_eq!(folded.iter().filter(|summary| **summary == table).count(), 1, "{table}");
        assert!(!texts(&elements, "h2").contains(&table), "{table}");
    }
    let rows = texts(&elements, "tr");
    for figure in
        ["perplexity of the base", "KL divergence, mean", "KL divergence, 99.9 %", "Δp, mean", "Δp, RMS"]
    {
        let row = rows.iter().find(|row| row.starts_with(figure)).unwrap();
        assert!(row.ends_with(". definition"), "{row}");
    }
    for tile in of_class(&elements, "tile") {
        assert!(tile.text.trim_end().ends_with(". definition"), "{}", tile.text);
    }
    let links: Vec<_> = elements.iter().filter(|e| e.name == "a").map(|a| a.get("href").unwrap()).collect();
    assert!(links.iter().all(|link| link.starts_with("https://")) && links.len() > 10, "{links:?}");
    // the interval of the mean is a band behind the curve, in both drawings
    assert_eq!(of_class(&elements, "band").len(), 2);
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
    assert_eq!(of_class(&elements, "wide").len(), 1);
    let good = of_class(&elements, "good");
    let good: Vec<_> = good.iter().map(|element| element.text.as_str()).collect();
    assert_eq!(good, ["✓ faster than the target alone", "✓ 1.40"]);
    for curve in ["ideal", "k"] {
        let drawn = of_class(&elements, curve).iter().filter(|element| element.name == "path").count();
        assert!(drawn > 0, "{curve}");
    }
    for form in [report::draft_text(&report), report::draft_markdown(&report)] {
        assert!(form.contains("Faster: the same text, 1.25 times as fast as the target alone"), "{form}");
    }
    let first = |report: &draft::DraftReport| {
        let (elements, _) = parse(&report::draft_html(report));
        let verdict = of_class(&elements, "verdict")[0];
        (verdict.get("class").unwrap().to_owned(), verdict.text.clone(), of_class(&elements, "fell").len())
    };
    assert_eq!(first(&report).0, "verdict pass");
    // a draft model that costs time is not praised
    report.measured.speedup = 0.78;
    let (class, text, fell) = first(&report);
    assert_eq!((class.as_str(), fell), ("verdict mixed", 1));
    assert!(text.starts_with("! Slower: the same text, 0.780 times as fast"), "{text}");
    // another text is said so, loudly
    report.measured.same_text = false;
    let (class, text, _) = first(&report);
    assert_eq!(class, "verdict fail");
    assert!(text.starts_with("✗ Slower: DIFFERENT TEXT"), "{text}");
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
        let sign = if report.passed { "✓" } else { "✗" };
        assert_eq!(texts(&page(&report), "p")[0], format!("{sign} {verdict}"));
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
