//! Pages: what is on them, what they refuse, and that a file read back draws the same page.

use rlhf_eval::error::ReportError;
use rlhf_eval::report::*;
use rlhf_eval::stats::Interval;

const HALF: Interval = Interval { estimate: 0.5, low: 0.25, high: 0.75 };

fn with(title: &str, blocks: impl IntoIterator<Item = Block>) -> Report {
    let mut section = Section::new("Results");
    blocks.into_iter().for_each(|block| section.push(block));
    let mut report = Report::new(title, "seed 0");
    report.sections.push(section);
    report
}

fn plot(points: impl IntoIterator<Item = Point>) -> Plot {
    Plot::new("Reward by round", "round", "mean reward").with(Series::new(
        "β = 0.1",
        Style::LineAndPoints,
        points,
    ))
}

fn full() -> Report {
    let mut table = Table::new("Figures", ["β", "reward", "note"]);
    table.row([0.1.into(), HALF.into(), "first".into()]);
    table.row([(1.0 / 3.0).into(), Cell::finite(f64::NAN), String::from("second").into()]);
    let samples = Samples {
        caption: "Test prompts".into(),
        columns: vec!["before".into(), "after".into()],
        rows: vec![Sample {
            prompt: "Why?".into(),
            answers: ["No.", "Because."]
                .map(|text| Answer { text: text.into(), note: "3 chars".into() })
                .into(),
        }],
    };
    let bars = Bars {
        title: "Accuracy".into(),
        value_name: "share".into(),
        caption: String::new(),
        bars: vec![Bar::estimate("bag of words", HALF), Bar::new("shorter", 0.555)],
    };
    let band = Series::finite("band", Style::Line, [0.0, 1.0, f64::NAN].map(|x| Point::estimate(x, HALF)));
    let plot =
        plot([Point::new(0.1, 0.2), Point::estimate(1.0 / 3.0, HALF)]).with(band).caption("Two seeds.");
    let mut report = with("full", [table.into(), samples.into(), bars.into(), plot.into()]);
    report.sections[0].paragraph("A paragraph.");
    report.sections[0].note("A caveat.");
    report
}

fn page(report: Report) -> String {
    html(&[report]).unwrap()
}

fn refusal(report: &Report) -> String {
    let error = html(std::slice::from_ref(report)).unwrap_err();
    assert_eq!(to_json(report).unwrap_err(), error);
    error.to_string()
}

#[test]
fn everything_is_on_the_page() {
    let page = page(full());
    for text in [
        "full",
        "seed 0",
        "Results",
        "A paragraph.",
        "A caveat.",
        "Figures",
        "0.50 [0.25, 0.75]",
        "0.3333",
        "not finite",
        "Test prompts",
        "Why?",
        "Because.",
        "3 chars",
        "Accuracy",
        "bag of words",
        "0.555",
        "Reward by round",
        "round",
        "mean reward",
        "β = 0.1",
        "Two seeds. Left out of “band” because not finite: 1.",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert_eq!(page.matches("<svg").count(), 2);
}

#[test]
fn nothing_is_loaded_and_nothing_runs() {
    let page = page(full());
    for text in ["<script", "<link rel=\"stylesheet", "src=", "@import", "url("] {
        assert!(!page.contains(text), "{text}");
    }
    // The only address is the name of the SVG vocabulary, which is not fetched.
    assert_eq!(page.matches("http").count(), page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
}

#[test]
fn text_is_escaped_everywhere() {
    let evil = "<script>alert('&')</script>";
    let mut table = Table::new(evil, [evil]);
    table.row([evil.into()]);
    let answer = Answer { text: evil.into(), note: evil.into() };
    let samples = Samples {
        caption: evil.into(),
        columns: vec![evil.into()],
        rows: vec![Sample { prompt: evil.into(), answers: vec![answer] }],
    };
    let bars = Bars {
        title: evil.into(),
        value_name: evil.into(),
        caption: evil.into(),
        bars: vec![Bar::new(evil, 1.0)],
    };
    let plot = Plot::new(evil, evil, evil)
        .caption(evil)
        .with(Series { left_out: 1, ..Series::new(evil, Style::Points, [Point::new(0.0, 1.0)]) });
    let mut report = with(evil, [table.into(), samples.into(), bars.into(), plot.into()]);
    report.subtitle = evil.into();
    report.sections[0].title = evil.into();
    report.sections[0].paragraph(evil);
    report.sections[0].note(evil);
    let page = html(&[report.clone(), report]).unwrap();
    assert!(!page.contains("<script") && !page.contains("alert('"));
    assert!(page.contains("&lt;script&gt;"));
}

#[test]
fn a_file_read_back_draws_the_same_page() {
    let report = full();
    let json = to_json(&report).unwrap();
    let back = from_json(&json).unwrap();
    assert_eq!(back, report);
    assert_eq!(to_json(&back).unwrap(), json);
    assert_eq!(page(back), page(report));
}

#[test]
fn every_bit_of_a_number_survives_the_file() {
    let values = [0.1 + 0.2, 1.0 / 3.0, 2.2e-308, 123_456_789.123_456_78, -7.0];
    let report = with("bits", [plot(values.map(|value| Point::new(value, -value))).into()]);
    assert_eq!(from_json(&to_json(&report).unwrap()).unwrap(), report);
}

#[test]
fn values_that_are_not_finite_are_refused() {
    assert_eq!(
        refusal(&with("run", [plot([Point::new(0.0, 1.0), Point::new(1.0, f64::NAN)]).into()])),
        "report \"run\", section \"Results\", plot \"Reward by round\", series \"β = 0.1\", point 2, y: \
         expected a finite number of at most 1e100, found NaN"
    );
    let infinite = Interval { high: f64::INFINITY, ..HALF };
    let mut table = Table::new("t", ["a", "b"]);
    table.row(["x".into(), infinite.into()]);
    assert_eq!(
        refusal(&with("run", [table.into()])),
        "report \"run\", section \"Results\", table \"t\", row 1, column \"b\": \
         expected a finite number of at most 1e100, found inf"
    );
    let backwards = Interval { low: 0.75, high: 0.25, ..HALF };
    assert_eq!(
        refusal(&with("run", [plot([Point::estimate(0.0, backwards)]).into()])),
        "report \"run\", section \"Results\", plot \"Reward by round\", series \"β = 0.1\", point 1, range: \
         expected low at most high, found low 0.75 above high 0.25"
    );
    let bar =
        |bar| Bars { title: "b".into(), value_name: "v".into(), caption: String::new(), bars: vec![bar] };
    for wrong in [Bar::new("x", f64::NEG_INFINITY), Bar::estimate("x", infinite)] {
        assert!(refusal(&with("run", [bar(wrong).into()])).contains("bars \"b\", bar \"x\""));
    }
}

#[test]
fn names_and_rows_are_checked() {
    let nameless = |x: &str, y: &str| refusal(&with("run", [Plot::new("p", x, y).into()]));
    assert_eq!(
        nameless(" ", "reward"),
        "report \"run\", section \"Results\", plot \"p\", name of the x axis: expected a name, found an empty one"
    );
    assert!(nameless("round", "").contains("name of the y axis"));
    let mut table = Table::new("t", ["a", "b"]);
    table.row([1.0.into(), 2.0.into()]);
    table.row([1.0.into()]);
    assert_eq!(
        refusal(&with("run", [table.into()])),
        "report \"run\", section \"Results\", table \"t\", row 2: expected 2 cells as in the header, found 1"
    );
    let samples = Samples {
        caption: "s".into(),
        columns: vec!["before".into()],
        rows: vec![Sample { prompt: "p".into(), answers: vec![] }],
    };
    assert!(refusal(&with("run", [samples.into()])).ends_with("expected 1 cells as in the header, found 0"));
    let mut twice = with("run", []);
    twice.sections.push(Section::new("Results"));
    assert!(refusal(&twice).ends_with("expected section titles that differ, found \"Results\" twice"));
    assert_eq!(html(&[]), Err(ReportError::Empty));
}

#[test]
fn files_that_are_no_reports() {
    let message = |text: &str| from_json(text).unwrap_err().to_string();
    assert!(message("").starts_with("report.json: EOF"));
    assert!(
        message("{\"title\": \"a\", \"subtitle\": \"\", \"sections\": [], \"x\": 1}")
            .contains("unknown field `x`")
    );
    let json = to_json(&with("run", [plot([Point::new(0.0, 1.5)]).into()])).unwrap();
    let (found, line) = (message(&json.replace("1.5", "null")), json.lines().count());
    assert!(found.contains("null") && found.contains("line"), "{found} of {line} lines");
}

#[test]
fn empty_plots_say_so() {
    let page = page(with("run", [plot([]).into()]));
    assert!(page.contains("No values were recorded.") && !page.contains("<svg"));
}

#[test]
fn runs_stand_side_by_side_on_one_scale() {
    let run =
        |title: &str, most: f64| with(title, [plot([Point::new(0.0, 0.0), Point::new(1.0, most)]).into()]);
    let mut second = run("second", 100.0);
    second.sections.push(Section::new("Only here"));
    let page = html(&[run("first", 1.0), second]).unwrap();
    assert!(page.contains("repeat(2, "));
    assert_eq!(page.matches("<h2>Results</h2>").count(), 1);
    assert_eq!(page.matches("<svg").count(), 2);
    // The tick 100 stands on both axes although the first run never gets there.
    assert_eq!(page.lines().filter(|line| line.trim() == "100").count(), 2);
    assert_eq!(page.matches("This run has no such section.").count(), 1); // the empty section is there
}

/// Many series, extreme values and long names: everything drawn stays within the drawing.
#[test]
fn drawings_stay_within_their_edges() {
    let long = "a name that is much too long for the space there is beside or above any plot ".repeat(3);
    let series = (0..16_u8).map(|i| {
        let style = [Style::Line, Style::LineAndPoints, Style::Points][usize::from(i) % 3];
        let points = (0..4_u8).map(|x| {
            let y = f64::from(x) * 10_f64.powi(i32::from(i));
            Point::estimate(f64::from(x) - 1e9, Interval { estimate: y, low: y - 1.0, high: y * 2.0 })
        });
        Series::new(format!("series {i}"), style, points)
    });
    let plot = series.fold(Plot::new("p", &long[..], &long[..]), Plot::with);
    let bars = Bars {
        title: "b".into(),
        value_name: long.clone(),
        caption: String::new(),
        bars: vec![Bar::new(long, -1e-9), Bar::new("", 1e80)],
    };
    let page = page(with("run", [plot.into(), bars.into()]));
    let mut checked = 0;
    for (attribute, edge) in
        [(" x=\"", 1280.0), (" cx=\"", 1280.0), (" x1=\"", 1280.0), (" width=\"", 1280.0)]
    {
        for rest in page.split(attribute).skip(1) {
            let Some(value) = rest.split('"').next().and_then(|text| text.parse::<f64>().ok()) else {
                continue;
            };
            assert!((0.0..=edge).contains(&value), "{attribute}{value}");
            checked += 1;
        }
    }
    assert!(checked > 50);
    for points in page.split(" points=\"").skip(1) {
        for pair in points.split('"').next().unwrap_or_default().split_whitespace() {
            let x: f64 = pair.split(',').next().unwrap().parse().unwrap();
            assert!((0.0..=1280.0).contains(&x), "{pair}");
        }
    }
}
