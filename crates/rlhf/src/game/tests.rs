//! The command's fields; the mathematics is tested where it is.

use super::*;

fn out(text: &str) -> Value {
    run("g.json", text).expect("a good game")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(number).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[track_caller]
fn close(found: &Value, expected: &[f64], tolerance: f64) {
    let found = numbers(found);
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance, "expected {expected:?}, found {found:?}");
    }
}

/// The cycle of three that the page on games shows, with more fields.
fn c3(more: &str) -> Value {
    out(&format!(r#"{{"P":[[0.5,0.9,0.2],[0.1,0.5,0.8],[0.8,0.2,0.5]],{more}}}"#))
}

const SKEWED: &str = r#""mu":[0.6,0.3,0.1]"#;
/// τ = 0.2 of the reverse KL, the skewed reference; eight digits.
const AT_ONE_FIFTH: [f64; 3] = [0.62702092, 0.13763075, 0.23534833];

#[test]
fn solve_takes_temperatures_under_either_name() {
    for pull in [r#""tau":{"reverse_kl":0.2}"#, r#""regularizer":{"reverse_kl":0.2}"#, r#""tau":0.2"#] {
        let found = c3(&format!(r#"{SKEWED},"algorithm":"solve",{pull}"#));
        close(&found["policy"], &AT_ONE_FIFTH, 5e-9);
        assert!(number(&found["regularized_gap"]) < 1e-14 && number(&found["gap"]) > 0.1);
        assert_eq!(found["trajectory"], json!([]));
        assert_eq!(found["tau"], json!({"reverse_kl": 0.2, "forward_kl": 0.0, "chi2": 0.0}));
    }
    // Uniform μ and no pull: the winner of von Neumann.
    close(&c3(r#""algorithm":"solve""#)["policy"], &[0.3, 0.3, 0.4], 1e-12);
}

#[test]
fn each_algorithm_plays() {
    // What it is, where it ends.
    let ends: [(&str, &[f64], f64); 6] = [
        (r#""algorithm":"gmmd","eta":1,"tau":{"reverse_kl":0.2},"steps":200"#, &AT_ONE_FIFTH, 5e-9),
        // τ = 2λ/η.
        (r#""algorithm":"rspo","eta":1,"regularizer":{"reverse_kl":0.1},"steps":200"#, &AT_ONE_FIFTH, 5e-9),
        (r#""algorithm":"rspo","eta":2,"tau":{"reverse_kl":0.2},"steps":200"#, &AT_ONE_FIFTH, 5e-9),
        // η of the loss, 1/1 + 0.2.
        (r#""algorithm":"inpo","eta":1.2,"tau":0.2,"steps":200"#, &AT_ONE_FIFTH, 5e-9),
        (r#""algorithm":"nash-md","eta":"theorem","tau":0.2,"steps":100000"#, &AT_ONE_FIFTH, 1e-5),
        // Nash-MD with equal steps rests elsewhere.
        (
            r#""algorithm":"nash-md","eta":0.5,"tau":0.2,"steps":2000"#,
            &[0.6369754, 0.1282605, 0.2347641],
            5.1e-8,
        ),
    ];
    for (fields, expected, tolerance) in ends {
        let found = c3(&format!("{SKEWED},{fields}"));
        close(&found["policy"], expected, tolerance);
        let records = found["trajectory"].as_array().expect("an array");
        assert_eq!(records.len(), 101, "a hundredth of the steps apart");
        assert_eq!(records[100]["policy"], found["policy"]);
        close(&records[0]["policy"], &[0.6, 0.3, 0.1], 0.0);
    }
}

#[test]
fn a_trajectory_has_its_gaps() {
    let found =
        c3(r#""start":[0.6,0.3,0.1],"algorithm":"mwu","eta":0.5,"steps":1000,"record_every":50,"kl":true"#);
    let records = found["trajectory"].as_array().expect("an array");
    // Four decimals: gap, KL(equilibrium ‖ policy), gap of the mean.
    for (i, gap, kl, average) in
        [(0, 0.18, 0.3466, 0.18), (1, 0.3533, 0.4252, 0.1479), (20, 0.3195, 2.1065, 0.0077)]
    {
        let record = &records[i];
        for (name, expected) in [("gap", gap), ("regularized_gap", gap), ("kl", kl), ("average_gap", average)]
        {
            assert!((number(&record[name]) - expected).abs() < 5.001e-5, "{name} of {record}");
        }
        assert_eq!(record["step"], json!(50 * i));
    }
}

#[test]
fn draws_are_those_of_the_seed() {
    let with = |seed: u32, choice: &str| {
        c3(&format!(
            r#"{SKEWED},"algorithm":"rspo","eta":2,"regularizer":{{"reverse_kl":0.2,"chi2":0.1}},"steps":50,
            "update":{{"learning_rate":0.05,"n_steps":2}},"responses":{{"n":5,"choice":"{choice}"}},"seed":{seed}"#
        ))
    };
    assert_eq!(with(1, "all"), with(1, "all"));
    assert_ne!(with(1, "all"), with(2, "all"));
    assert_ne!(with(1, "all"), with(1, "best_worst"));
}

#[test]
fn several_runs_share_their_fields() {
    let found = c3(
        r#""algorithm":"gmmd","eta":0.5,"steps":200,"runs":[{"name":"a","tau":{"chi2":0.1}},{"eta":1,"tau":{"chi2":0.1}}]"#,
    );
    let runs = found["runs"].as_array().expect("runs");
    assert_eq!((&runs[0]["name"], runs[1].get("name")), (&json!("a"), None));
    close(&runs[1]["policy"], &[9.0 / 26.0, 15.0 / 52.0, 19.0 / 52.0], 1e-9);
    let image = plot(&found).expect("a plot");
    assert!(image.starts_with("<svg") && image.contains("log₁₀") && image.contains(">\na\n<"), "{image}");
    let error = plot(&c3(r#""algorithm":"solve""#)).expect_err("nothing to draw").to_string();
    assert_eq!(error, "plot: expected a trajectory with gaps above 0, found none");
}

/// Fields beside a good matrix of two, and what is said of them.
const ERRORS: [(&str, &str); 22] = [
    (r#""algorithm":"ppo""#, "algorithm: expected one of rspo, gmmd, mwu, nash-md, inpo, solve, found `ppo`"),
    (r#""algorithm":"solve","mu":[1]"#, "mu: expected 2 numbers, as many as actions, found 1"),
    (r#""algorithm":"solve","mu":[0,0]"#, "mu: expected numbers with the sum 1, found the sum 0"),
    (r#""algorithm":"solve","mu":[-0.5,1.5]"#, "mu[0]: expected a number from 0 to 1, found -0.5"),
    (
        r#""algorithm":"solve","mu":[0,1],"tau":{"forward_kl":0.1}"#,
        "mu[0]: expected a number above 0, as the forward KL needs mass on every action, found 0",
    ),
    (
        r#""algorithm":"solve","tau":{"chi2":-1}"#,
        "tau.chi2: expected a finite number of at least 0, found -1",
    ),
    (
        r#""algorithm":"solve","tau":{"chi":1}"#,
        "tau.chi: expected one of reverse_kl, forward_kl, chi2, found another name",
    ),
    (
        r#""algorithm":"solve","regularizer":{"chi2":"1"}"#,
        r#"regularizer: expected an object of reverse_kl, forward_kl and chi2, found {"chi2":"1"}"#,
    ),
    (
        r#""algorithm":"solve","regularizer":{},"tau":{}"#,
        "tau: expected no tau beside regularizer, found both",
    ),
    (
        r#""algorithm":"solve","eta":1"#,
        "eta: expected a field among runs, algorithm, P, mu, start, regularizer, tau, name, found an unknown field",
    ),
    (r#""algorithm":"mwu","steps":1"#, "eta: expected a positive number, found nothing"),
    (r#""algorithm":"mwu","eta":0,"steps":1"#, "eta: expected a positive number, found 0"),
    (r#""algorithm":"mwu","eta":"theorem","steps":1"#, "eta: expected a positive number, found \"theorem\""),
    (r#""algorithm":"mwu","eta":1"#, "steps: expected a whole number from 1 to 1000000, found nothing"),
    (r#""algorithm":"mwu","eta":1,"steps":0"#, "steps: expected a whole number from 1 to 1000000, found 0"),
    (
        r#""algorithm":"mwu","eta":1,"steps":1,"tau":0.1"#,
        "tau: expected no pull with mwu, found reverse_kl 0.1",
    ),
    (r#""algorithm":"nash-md","eta":3,"steps":1,"tau":0.5"#, "eta: expected at most 1/tau = 2, found 3"),
    (
        r#""algorithm":"gmmd","eta":1,"steps":1,"mu":[0,1],"start":[0.5,0.5],"tau":0.5"#,
        "start[0]: expected 0, as mu has there, found 0.5",
    ),
    (
        r#""algorithm":"rspo","eta":1,"steps":1,"responses":{"n":1,"choice":"all"}"#,
        "responses: expected at least 2 a step, found 1",
    ),
    (
        r#""algorithm":"rspo","eta":1,"steps":1,"responses":{"n":100001,"choice":"all"}"#,
        "responses.n: expected at most 100000, found 100001",
    ),
    (
        r#""algorithm":"rspo","eta":1,"steps":1,"responses":{"n":2,"choice":"all"}"#,
        "update: expected learning_rate and n_steps, as responses are drawn, found the minimum",
    ),
    (
        r#""algorithm":"rspo","eta":1,"steps":1,"update":{"learning_rate":0,"n_steps":1}"#,
        r#"update: expected "minimum", or an object of a positive learning_rate and n_steps, found {"learning_rate":0,"n_steps":1}"#,
    ),
];

/// Matrices at fault.
const MATRICES: [(&str, &str); 7] = [
    ("[]", "P: expected at least 2 actions, found 0"),
    ("[[0.5]]", "P: expected at least 2 actions, found 1"),
    ("[[0.5,1.2],[-0.2,0.5]]", "P[0][1]: expected a number from 0 to 1, found 1.2"),
    ("[[0.5,0.7],[0.4,0.5]]", "P[0][1] + P[1][0]: expected the sum 1, found 1.1"),
    ("[[0.6,0.7],[0.3,0.5]]", "P[0][0] + P[0][0]: expected the sum 1, found 1.2"),
    ("[[0.5,0.7],[0.3]]", "P[1]: expected 2 numbers, as many as rows, found 1"),
    ("[[0.5,null],[0.3,0.5]]", "P: expected an array of arrays of numbers, found [[0.5,null],[0.3,0.5]]"),
];

#[test]
fn errors_name_field_expected_and_found() {
    let check = |text: String, expected: &str| {
        let error = run("g.json", &text).expect_err(&text);
        assert_eq!(error.to_string(), format!("g.json: {expected}"));
        assert_eq!(error.exit_code(), 2);
    };
    for (fields, expected) in ERRORS {
        check(format!(r#"{{"P":[[0.5,0.7],[0.3,0.5]],{fields}}}"#), expected);
    }
    for (matrix, expected) in MATRICES {
        check(format!(r#"{{"algorithm":"solve","P":{matrix}}}"#), expected);
    }
    check("{}".to_owned(), "algorithm: expected a text, found nothing");
    check("[1]".to_owned(), "(file): expected a JSON object, found [1]");
    check(r#"{"runs":[]}"#.to_owned(), "runs: expected at least 1 object, found none");
    let runs = r#"{"P":[[0.5,0.7],[0.3,0.5]],"runs":[{"algorithm":"solve"},{"algorithm":"solve","mu":[1]}]}"#;
    check(runs.to_owned(), "runs[1]: mu: expected 2 numbers, as many as actions, found 1");
}

#[test]
fn a_play_that_comes_to_nothing_names_its_step() {
    let text = r#"{"P":[[0.5,0.7],[0.3,0.5]],"algorithm":"rspo","eta":1,"steps":9,"regularizer":{"chi2":1},
        "update":{"learning_rate":1e300,"n_steps":3}}"#;
    let error = run("g.json", text).expect_err("infinite");
    assert!(error.to_string().starts_with("g.json: step 0: policy: expected finite"), "{error}");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn the_help_names_every_field() {
    let error = run("g", r#"{"P":[[0.5,0.7],[0.3,0.5]],"algorithm":"rspo","eta":1,"steps":1,"x":2}"#)
        .expect_err("unknown")
        .to_string();
    let fields =
        error.split("among ").nth(1).and_then(|s| s.split(", found").next()).expect("a list of fields");
    assert_eq!(fields.split(", ").count(), 16, "{fields}");
    for field in fields.split(", ") {
        assert!(HELP.contains(&format!("\n  {field} ")), "{field}");
    }
    let example = HELP.split("Example: ").nth(1).and_then(|s| s.lines().next()).expect("an example");
    close(&out(example)["policy"], &[0.88079708, 0.11920292], 5e-9);
}
