//! Laws of nested rollouts on what is enumerated, and what training on them looks like.

use super::*;

fn rows<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().expect(field)
}

/// The estimator of this correction, as it is written in JSON.
fn of<'a>(skip: &'a Value, correction: &str) -> &'a Value {
    let wanted: Value = serde_json::from_str(correction).expect("JSON");
    rows(skip, "estimators").iter().find(|row| row["correction"] == wanted).expect(correction)
}

fn all(seed: u64) -> Value {
    out(&format!(r#"{{"task":"nested","seed":{seed}}}"#))
}

const NAMES: [&str; 15] = [
    r#""none""#,
    r#""sequence""#,
    r#""token""#,
    r#""prefix""#,
    r#"{"sequence_truncate":[0.0,2.0]}"#,
    r#"{"sequence_truncate":[0.0,1.0]}"#,
    r#"{"sequence_mask":[0.0,2.0]}"#,
    r#"{"token_truncate":[0.0,2.0]}"#,
    r#"{"token_mask":[0.0,2.0]}"#,
    r#"{"retrace_token":1.0}"#,
    r#"{"retrace_traces":1.0}"#,
    r#"{"retrace_traces":0.95}"#,
    r#""geometric""#,
    r#"{"geometric_mask":[0.0,1.2]}"#,
    r#""base_clip""#,
];

#[test]
fn only_the_whole_ratio_is_unbiased_whatever_the_layers_are() {
    for seed in 0..6 {
        let out = all(seed);
        assert_eq!(out["n_completions"], 81);
        let sets: Vec<u64> = rows(&out, "skip").iter().filter_map(|s| s["n_sets"].as_u64()).collect();
        assert_eq!(sets, [4, 6, 4]);
        for skip in rows(&out, "skip") {
            assert_eq!(rows(skip, "estimators").len(), NAMES.len());
            for name in NAMES {
                let row = of(skip, name);
                let (bias, cosine) = (number(&row["relative_bias"]), number(&row["cosine"]));
                if name == r#""sequence""# {
                    assert!(bias < 1e-12 && (cosine - 1.0).abs() < 1e-12, "{seed}: {row}");
                } else {
                    assert!(bias > 1e-3 && cosine < 1.0 - 1e-6, "{seed}: {row}");
                }
            }
            // The mixture of all sets is as unbiased, with no larger E ρ².
            let mixture = &skip["mixture"];
            assert!(number(&mixture["relative_bias"]) < 1e-12);
            assert!(number(&mixture["mean_square_ratio"]) <= number(&skip["mean_square_ratio"]));
            // E ρ_t = 1 after every prefix.
            assert!((number(&skip["mean_token_ratio"]) - 1.0).abs() < 1e-13);
        }
    }
}

#[test]
fn bounds_on_bias_and_variance_hold() {
    for seed in 0..6 {
        let out = all(seed);
        let (largest, norm) = (number(&out["largest_square"]), number(&out["gradient_norm"]));
        for skip in rows(&out, "skip") {
            let field = |name: &str, what: &str| number(&of(skip, name)[what]);
            // tr Var ≤ E (1 + χ²) sup ‖A ∂ log π‖² − ‖∇J‖².
            let bound = number(&skip["mean_square_ratio"]) * largest - norm * norm;
            assert!(field(NAMES[1], "variance") <= bound);
            // Truncated at 1: no more than the uncorrected second moment, and a bias of at most sup · TV.
            let uncorrected = field(NAMES[0], "variance") + field(NAMES[0], "mean_norm").powi(2);
            let capped = r#"{"sequence_truncate":[0.0,1.0]}"#;
            assert!(field(capped, "variance") <= uncorrected);
            let bias = field(capped, "relative_bias") * norm;
            assert!(bias <= largest.sqrt() * number(&skip["total_variation"]));
            // A larger bound: less bias, more variance.
            let wider = r#"{"sequence_truncate":[0.0,2.0]}"#;
            assert!(field(wider, "relative_bias") < field(capped, "relative_bias"));
            assert!(field(wider, "variance") > field(capped, "variance"));
        }
    }
}

#[test]
fn a_groups_mean_for_a_baseline_shortens_the_gradient_by_one_part_in_g() {
    for skip in rows(&all(3), "skip") {
        for (row, g) in rows(skip, "group_mean").iter().zip([2.0, 4.0, 8.0]) {
            assert!((number(&row["G"]) - g).abs() <= 0.0);
            assert!((number(&row["factor"]) - (1.0 - 1.0 / g)).abs() < 1e-13, "{row}");
            assert!(number(&row["residual"]) < 1e-13, "{row}");
        }
    }
}

/// Of these layers and rewards: other ones have some of it the other way round.
#[test]
fn what_more_skipping_does_and_what_the_corrections_cost() {
    let out = all(3);
    let skips = rows(&out, "skip");
    let along = |of: &dyn Fn(&Value) -> f64| skips.iter().map(of).collect::<Vec<f64>>();
    let rises = |x: &[f64]| x.windows(2).all(|w| w[1] > w[0]);
    assert!(rises(&along(&|s| number(&s["kl"]))));
    assert!(rises(&along(&|s| number(&s["mean_square_ratio"]))));
    let field = |name: &'static str, what: &'static str| along(&move |s| number(&of(s, name)[what]));
    for name in [NAMES[0], NAMES[2], NAMES[3], NAMES[9], NAMES[10], NAMES[12]] {
        assert!(rises(&field(name, "relative_bias")), "{name}");
    }
    assert!(rises(&field(NAMES[1], "variance_factor")));
    for i in 0..3 {
        let bias = |name| field(name, "relative_bias")[i];
        let factor = |name| field(name, "variance_factor")[i];
        // Uncorrected rollouts are the most biased; each longer product is less so, and varies more.
        assert!(bias(NAMES[0]) > bias(NAMES[2]) && bias(NAMES[2]) > bias(NAMES[3]));
        assert!(factor(NAMES[2]) < factor(NAMES[3]) && factor(NAMES[3]) < factor(NAMES[1]));
        // Traces vary less than completions of the policy itself, and keep the direction.
        assert!(factor(NAMES[10]) < 1.0 && factor(NAMES[11]) < factor(NAMES[10]));
        assert!(field(NAMES[10], "cosine")[i] > field(NAMES[0], "cosine")[i]);
    }
}

#[test]
fn with_nothing_left_out_every_correction_is_on_policy() {
    let out = out(r#"{"task":"nested","skip":[0]}"#);
    let skip = &out["skip"][0];
    assert!(number(&skip["kl"]).abs() < 1e-13 && number(&skip["total_variation"]).abs() < 1e-13);
    for name in NAMES.iter().filter(|n| !n.contains("0.95")) {
        let row = of(skip, name);
        // A mask at 1 may fall on either side by rounding.
        if !name.contains("1.0]") {
            assert!(number(&row["relative_bias"]) < 1e-12, "{row}");
            assert!((number(&row["variance_factor"]) - 1.0).abs() < 1e-12, "{row}");
        }
    }
    assert!(number(&out["variance"]["baseline"]) < number(&out["variance"]["no_baseline"]));
}

#[test]
fn one_token_of_two_by_hand() {
    // One layer stays of two: whatever the logits are, π(1 − π) is the slope and J = π₁.
    let out = out(
        r#"{"task":"nested","vocabulary":2,"length":1,"layers":2,"border":0,"skip":[1],"reward":[0,1],"seed":9}"#,
    );
    let p = number(&out["objective"]);
    // ∂ J/∂z is ±p(1 − p).
    assert!((number(&out["gradient_norm"]) - 2f64.sqrt() * p * (1.0 - p)).abs() < 1e-14);
    // E (R ∂)² over both logits is 2 p (1 − p)², less the square of the mean.
    let variance = 2.0 * p * (1.0 - p).powi(2) - 2.0 * (p * (1.0 - p)).powi(2);
    assert!((number(&out["variance"]["no_baseline"]) - variance).abs() < 1e-14);
    // One token: the products and the traces are the token's own.
    let skip = &out["skip"][0];
    for name in [NAMES[2], NAMES[3], NAMES[12]] {
        assert!(number(&of(skip, name)["relative_bias"]) < 1e-12);
    }
}

#[test]
fn training_has_the_shape_of_the_table() {
    let out = out(r#"{"task":"nested","skip":[1],"train":{}}"#);
    let table = rows(&out, "train");
    let ratios: Vec<f64> = table.iter().map(|row| number(&row["ratio"])).collect();
    assert!(ratios.iter().zip([0.0, 0.1, 0.2, 0.3, 0.4]).all(|(f, e)| (f - e).abs() < 1e-12));
    let end = |row: usize, c: usize| {
        let accuracy = &table[row]["corrections"][c]["accuracy"];
        number(accuracy.as_array().and_then(|a| a.last()).expect("a number"))
    };
    let start = number(&table[0]["corrections"][0]["accuracy"][0]);
    assert!((0.1..0.3).contains(&start), "{start}");
    let kl: Vec<f64> = table.iter().map(|row| number(&row["kl"])).collect();
    assert!(kl[0].abs() < 1e-13 && kl.windows(2).all(|w| w[1] > w[0]), "{kl:?}");
    let reward: Vec<f64> = table.iter().map(|row| number(&row["corrections"][0]["rollout_reward"])).collect();
    assert!(reward.windows(2).all(|w| w[1] < w[0]), "{reward:?}");
    // With nothing left out all corrections are one run.
    for c in 0..5 {
        assert!((end(0, c) - end(0, 0)).abs() < 1e-9);
    }
    assert!(end(0, 0) > 0.9);
    for row in 1..4 {
        // None, token, sequence and traces learn; b in the clip falls behind, the more the more is left out.
        for c in 0..4 {
            assert!(end(row, c) > 0.8, "{row} {c}: {}", end(row, c));
            assert!(end(row, 4) < end(row, c), "{row} {c}");
        }
        assert!(end(row + 1, 4) < end(row, 4));
    }
    assert!(end(3, 4) < 0.7 * end(3, 3), "{} {}", end(3, 4), end(3, 3));
}

#[test]
fn nested_errors_name_field_expected_and_found() {
    let cases = [
        (r#""vocabulary":1"#, "vocabulary: expected a whole number of at least 2, found 1"),
        (r#""length":20"#, "length: expected vocabulary^length of at most 100000 completions, found 3^20"),
        (r#""border":3"#, "border: expected less than half of 6 layers, found 3"),
        (
            r#""skip":[5]"#,
            "skip: expected at most 4 of 6 layers, for the borders and one that stays, found 5",
        ),
        (r#""border":0,"skip":[6]"#, "skip: expected at most 5 of 6 layers"),
        (r#""layers":60,"skip":[5]"#, "skip: expected at most 100000 completions under all sets of layers"),
        (r#""reward":[1,0]"#, "reward: expected 81 numbers, one a completion, found 2"),
        (r#""groups":[0]"#, "groups: expected group sizes of at least 1, found 0"),
        (r#""epsilon":-1"#, "epsilon: expected a finite number of at least 0, found -1"),
        (r#""corrections":[]"#, "corrections: expected a field among task, seed, epsilon"),
        (
            r#""train":{"rate":1}"#,
            "train: expected an object with the fields that `rlhf bandit --help` lists",
        ),
        (
            r#""train":{"ratios":[1.0]}"#,
            "train.ratios: expected a ratio that leaves at least one of 10 blocks",
        ),
        (r#""train":{"border":5}"#, "train.border: expected less than half of 10 blocks"),
        (r#""train":{"num_generations":1}"#, "train.num_generations: expected a whole number of at least 2"),
        (r#""train":{"learning_rate":-1}"#, "train.learning_rate: expected a finite number of at least 0"),
        (
            r#""train":{"ratios":[-0.1]}"#,
            "train: expected an object with the fields that `rlhf bandit --help` lists, found ",
        ),
        (r#""layers":1000000000"#, "layers: expected at most 20000000 logits"),
        (r#""scale":100"#, "scale: expected at most 5"),
        (r#""length":1,"reward":[1,1,1]"#, "reward: expected rewards that differ"),
        (r#""train":{"updates":1000000000}"#, "train: expected at most 200000000 tokens drawn in all runs"),
    ];
    for (fields, expected) in cases {
        let error = run("b.json", &format!(r#"{{"task":"nested",{fields}}}"#)).expect_err(fields);
        assert!(error.to_string().starts_with(&format!("b.json: {expected}")), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn the_help_names_every_field_of_nested() {
    let error = run("b", r#"{"task":"nested","x":2}"#).expect_err("unknown").to_string();
    let fields =
        error.split("among ").nth(1).and_then(|s| s.split(", found").next()).expect("a list of fields");
    let help = HELP.split("Task \"nested\"").nth(1).expect("its part");
    for field in fields.split(", ") {
        assert!(help.contains(&format!("\n  {field} ")), "{field}");
    }
    // The defaults it lists are those that hold.
    let listed = help.split("defaults:").nth(1).and_then(|s| s.split("; `push`").next()).expect("a list");
    let text = format!(r#"{{"task":"nested","skip":[1],"train":{listed}}}"#);
    assert_eq!(out(&text)["train"], out(r#"{"task":"nested","skip":[1],"train":{}}"#)["train"]);
}
