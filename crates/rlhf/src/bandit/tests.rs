//! Numbers from the theory's own pages; the laws themselves are tested where they are.

use super::*;

mod nested;

fn out(text: &str) -> Value {
    run("b.json", text).expect("a good bandit")
}

fn close(found: &Value, expected: &[f64], tolerance: f64) {
    let found: Vec<f64> =
        found.as_array().expect("an array").iter().map(|x| x.as_f64().expect("a number")).collect();
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance, "expected {expected:?}, found {found:?}");
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[test]
fn four_equal_answers() {
    let out = out(r#"{"task":"superhf","p0":[0.25,0.25,0.25,0.25],"reward":[0,1,2,3],"N":4,"beta":1}"#);
    // (k/4)⁴ − ((k − 1)/4)⁴.
    let q = [1.0 / 256.0, 15.0 / 256.0, 65.0 / 256.0, 175.0 / 256.0];
    close(&out["best_of_n"]["policy"], &q, 1e-15);
    assert!((number(&out["best_of_n"]["reward"]["train"]) - 2.6171875).abs() < 1e-15);
    assert!((number(&out["best_of_n"]["kl"]) - 0.59031).abs() < 5e-6);
    assert!((number(&out["best_of_n"]["kl_bound"]) - 0.63629).abs() < 5e-6);
    // (q + p₀)/2.
    close(&out["inner_minimiser"]["policy"], &q.map(|q| (q + 0.25) / 2.0), 1e-15);
    close(&out["rl_optimum"]["policy"], &[0.032059, 0.087144, 0.236883, 0.643914], 5e-7);
    assert!((number(&out["rl_optimum"]["objective"]) - 2.0538953).abs() < 5e-8);
    // Four times 1/16, and no distance from itself.
    assert!((number(&out["prior"]["collision"]) - 0.25).abs() < 1e-15);
    assert!(number(&out["prior"]["kl"]).abs() < 1e-15);
    assert_eq!(out.get("trajectory"), None);
}

#[test]
fn fixed_points() {
    let end = out(r#"{"task":"superhf","reward":[0,1,2,3],"N":16,"beta":0.35}"#);
    close(&end["fixed_point"]["policy"], &[0.064815, 0.064815, 0.064815, 0.805556], 5e-7);
    assert!(number(&end["fixed_point"]["residual"]) < 1e-14);
    // β = 0: everything on the best; the RL optimum does not exist there.
    let end = out(r#"{"task":"superhf","reward":[0,1],"N":2,"beta":0}"#);
    close(&end["fixed_point"]["policy"], &[0.0, 1.0], 0.0);
    assert_eq!(end["rl_optimum"], Value::Null);
}

/// Method, N, β; E of train, test and gold; Σ p².
type Row = (&'static str, Option<u32>, Option<f64>, [f64; 3], Option<f64>);

#[test]
fn the_table_of_twenty_answers() {
    let out = out(r#"{"task":"superhf","preset":"A5"}"#);
    let rows: [Row; 10] = [
        ("superhf", Some(2), Some(0.0), [1.8695, 0.1496, 0.9093], Some(1.0)),
        ("superhf", Some(2), Some(0.2), [1.5281, 0.1357, 0.7399], Some(0.6617)),
        ("superhf", Some(2), Some(1.0), [0.6317, 0.2496, 0.3064], Some(0.0873)),
        ("superhf", Some(2), Some(5.0), [0.1625, 0.0801, 0.0625], Some(0.0507)),
        ("superhf", Some(16), Some(0.35), [1.3984, 0.1132, 0.6747], Some(0.5713)),
        ("superhf", Some(16), Some(1.0), [0.9610, 0.0794, 0.4568], Some(0.2875)),
        ("best_of_n", Some(2), None, [0.6024, 0.3717, 0.2964], None),
        ("best_of_n", Some(8), None, [1.3733, 0.7384, 0.6992], None),
        ("best_of_n", Some(64), None, [1.8521, 0.2142, 0.9119], None),
        ("rl", None, Some(0.5), [1.3447, 0.5689, 0.6664], None),
    ];
    let table = out["table"].as_array().expect("a table");
    assert_eq!(table.len(), rows.len() + 1, "the prior comes first");
    for (row, (method, n, beta, rewards, collision)) in table[1..].iter().zip(rows) {
        assert_eq!((&row["method"], &row["N"], &row["beta"]), (&method.into(), &n.into(), &beta.into()));
        // Four printed digits.
        for (name, expected) in ["train", "test", "gold"].iter().zip(rewards) {
            assert!((number(&row[name]) - expected).abs() < 5.0001e-5, "{name} of {row}");
        }
        if let Some(expected) = collision {
            assert!((number(&row["collision"]) - expected).abs() < 5.0001e-5, "{row}");
        }
    }
}

#[test]
fn a_step_follows_the_gradient_and_many_end_at_the_fixed_point() {
    // p = ½, q = (¼, ¾), β = 1: θ₁ − θ₀ = 2 · 0.1 · ¼ = 0.05, so p₁ = σ(0.05).
    let text = r#"{"task":"superhf","reward":[0,1],"N":2,"beta":1,"steps":4000,"learning_rate":0.1,"record_every":1000}"#;
    let once = out(&text.replace("4000", "1").replace("1000", "1"));
    assert_eq!(once["trajectory"].as_array().map(Vec::len), Some(2));
    let p = 1.0 / (1.0 + (-0.05f64).exp());
    close(&once["trajectory"][1]["policy"], &[1.0 - p, p], 1e-15);
    let flow = out(text);
    let steps: Vec<u64> =
        flow["trajectory"].as_array().expect("an array").iter().filter_map(|r| r["step"].as_u64()).collect();
    assert_eq!(steps, [0, 1000, 2000, 3000, 4000]);
    // √½ by the quadratic equation.
    close(&flow["trajectory"][4]["policy"], &[1.0 - 0.5f64.sqrt(), 0.5f64.sqrt()], 1e-12);
}

#[test]
fn named_rewards_are_measured_but_do_not_select() {
    let out = out(r#"{"task":"superhf","reward":{"train":[0,1],"gold":[4,0]},"N":2,"beta":0}"#);
    // q = (¼, ¾): gold = 4/4.
    assert!((number(&out["best_of_n"]["reward"]["gold"]) - 1.0).abs() < 1e-15);
    assert!(number(&out["fixed_point"]["reward"]["gold"]).abs() < 1e-15);
}

/// A bandit at fault, and what is said of it.
const ERRORS: [(&str, &str); 15] = [
    (r#"{"task":"tpo"}"#, "task: expected one of superhf, nested, found `tpo`"),
    ("{}", "task: expected a text, found nothing"),
    ("[1]", "(file): expected a JSON object, found [1]"),
    (
        r#"{"task":"superhf","N":2,"beta":1}"#,
        "reward: expected an array of numbers, or arrays by name, found nothing",
    ),
    (r#"{"task":"superhf","reward":[1],"N":2,"beta":1}"#, "reward: expected at least 2 answers, found 1"),
    (
        r#"{"task":"superhf","reward":{"a":[1,2]},"N":2,"beta":1}"#,
        "reward: expected an array named `train` among them, found a",
    ),
    (
        r#"{"task":"superhf","reward":{"train":[1,2],"b":[1]},"N":2,"beta":1}"#,
        "reward.b: expected 2 numbers, as `train` has, found 1",
    ),
    (
        r#"{"task":"superhf","reward":[0,1],"p0":[0.5],"N":2,"beta":1}"#,
        "p0: expected 2 numbers, as many as rewards, found 1",
    ),
    (
        r#"{"task":"superhf","reward":[0,1],"p0":[0.5,0.6],"N":2,"beta":1}"#,
        "p0: expected numbers with the sum 1, found the sum 1.1",
    ),
    (
        r#"{"task":"superhf","reward":[0,1],"p0":[1.5,-0.5],"N":2,"beta":1}"#,
        "p0[1]: expected a number from 0 to 1, found -0.5",
    ),
    (
        r#"{"task":"superhf","reward":[0,1],"N":0,"beta":1}"#,
        "N: expected a whole number of at least 1, found 0",
    ),
    (
        r#"{"task":"superhf","reward":[0,1],"N":2,"beta":-1}"#,
        "beta: expected a finite number of at least 0, found -1",
    ),
    (
        r#"{"task":"superhf","reward":[0,1],"N":2,"beta":1,"steps":3}"#,
        "learning_rate: expected a positive finite number, found nothing",
    ),
    (r#"{"task":"superhf","preset":"A6"}"#, "preset: expected A5, found `A6`"),
    (
        r#"{"task":"superhf","preset":"A5","N":2}"#,
        "N: expected a field among task, preset, found an unknown field",
    ),
];

#[test]
fn errors_name_field_expected_and_found() {
    for (text, expected) in ERRORS {
        let error = run("b.json", text).expect_err(text);
        assert_eq!(error.to_string(), format!("b.json: {expected}"));
        assert_eq!(error.exit_code(), 2);
    }
    let error =
        run("b.json", r#"{"task":"superhf","reward":[0,1],"N":2,"beta":1,"betta":2}"#).expect_err("misspelt");
    assert!(
        error.to_string().starts_with("b.json: betta: expected a field among task, preset, reward, p0, N"),
        "{error}"
    );
    assert!(run("b.json", "{\n\"task\": }").expect_err("no JSON").to_string().starts_with("b.json:2:"));
}

#[test]
fn the_help_names_every_field() {
    let error = run("b", r#"{"task":"superhf","reward":[0,1],"N":2,"beta":1,"x":2}"#)
        .expect_err("unknown")
        .to_string();
    let fields =
        error.split("among ").nth(1).and_then(|s| s.split(", found").next()).expect("a list of fields");
    for field in fields.split(", ") {
        assert!(HELP.contains(&format!("\n  {field} ")), "{field}");
    }
    let example = HELP.split("Example: ").nth(1).and_then(|s| s.lines().next()).expect("an example");
    close(&out(example)["fixed_point"]["policy"], &[1.0 - 0.5f64.sqrt(), 0.5f64.sqrt()], 1e-15);
}
