use super::*;

fn answer(completion: &str) -> Candidate<'_> {
    Candidate { prompt: "why?", completion, prompt_ids: &[], completion_ids: &[] }
}

fn pair<'a>(a: &'a str, b: &'a str) -> Comparison<'a> {
    Comparison { a: answer(a), b: answer(b) }
}

fn positive(x: f64) -> Positive {
    Positive::new(x).expect("positive")
}

/// Rewards the number that a completion spells, and counts what it was asked.
#[derive(Debug, Default)]
struct Spelled {
    asked: Vec<usize>,
}

impl RewardModel for Spelled {
    type Error = std::num::ParseFloatError;

    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Self::Error> {
        self.asked.push(items.len());
        items.iter().map(|c| c.completion.parse()).collect()
    }
}

#[test]
fn bradley_terry_is_the_logistic_function_of_the_gap() {
    let mut oracle = BradleyTerry { model: Spelled::default(), temperature: positive(2.0) };
    let all = ["3", "1", "-2.5"];
    let pairs: Vec<Comparison<'_>> = all.iter().flat_map(|a| all.iter().map(|b| pair(a, b))).collect();
    let found = oracle.prefer(&pairs).expect("numbers");
    for (p, pair) in found.iter().zip(&pairs) {
        let [a, b] = [pair.a, pair.b].map(|c| c.completion.parse::<f64>().expect("a number"));
        assert!((p.get() - 1.0 / (1.0 + ((b - a) / 2.0).exp())).abs() < 1e-15);
    }
    assert_eq!(oracle.model.asked, [3], "each answer is read once");
}

#[test]
fn a_reward_that_is_no_number_names_the_pair() {
    let mut oracle = BradleyTerry { model: Spelled::default(), temperature: positive(1.0) };
    let error = oracle.prefer(&[pair("1", "2"), pair("1", "inf")]).expect_err("infinite");
    let said = "preference of \"1\" over \"inf\" for the prompt \"why?\": expected finite rewards, found inf";
    assert_eq!(error.to_string(), said);
    assert!(oracle.prefer(&[pair("inf", "inf")]).is_err(), "∞ − ∞");
    let error = oracle.prefer(&[pair("1", "one")]).expect_err("no number");
    assert_eq!(error, BradleyTerryError::Model("one".parse::<f64>().expect_err("no number")));
}

#[test]
fn a_rule_may_be_cyclic_but_never_outside_the_range() {
    let beats = |p: &Comparison<'_>| match (p.a.completion, p.b.completion) {
        ("rock", "scissors") | ("scissors", "paper") | ("paper", "rock") => 1.0,
        (a, b) if a == b => 0.5,
        ("well", _) => 1.5,
        (_, "well") => f64::NAN,
        _ => 0.0,
    };
    let found =
        Rule(beats).prefer(&[pair("rock", "scissors"), pair("scissors", "rock"), pair("rock", "rock")]);
    assert_eq!(found.expect("in range").iter().map(|p| p.get()).collect::<Vec<_>>(), [1.0, 0.0, 0.5]);
    let error = Rule(beats).prefer(&[pair("rock", "paper"), pair("rock", "well")]).expect_err("NaN");
    assert_eq!(
        error.to_string(),
        "preference of \"rock\" over \"well\" for the prompt \"why?\": expected a number from 0 to 1, found NaN"
    );
    assert_eq!(Rule(beats).prefer(&[pair("well", "rock")]).expect_err("1.5").found, "1.5");
}

#[test]
fn a_long_answer_is_named_by_its_beginning() {
    let long = "ü".repeat(200);
    let said = PairFault::new(&pair(&long, "b"), "x", "y").to_string();
    assert!(said.starts_with(&format!("preference of \"{}\"… over \"b\" for", "ü".repeat(60))), "{said}");
}

#[test]
fn log_odds_become_preferences_or_an_error() {
    let pairs = [pair("a", "b"), pair("a", "c")];
    let p = from_log_odds(&pairs, &[0.0, 800.0]).expect("finite");
    assert_eq!(p.iter().map(|p| p.get()).collect::<Vec<_>>(), [0.5, 1.0]);
    let error = from_log_odds(&pairs, &[0.0, f64::NEG_INFINITY]).expect_err("infinite");
    assert!(error.to_string().contains("\"a\" over \"c\"") && error.to_string().ends_with("found -inf"));
}

#[test]
fn the_same_text_with_other_tokens_is_another_candidate() {
    let ids = [1, 2];
    let other = Candidate { completion_ids: &ids, ..answer("a") };
    let distinct = Distinct::of(&[pair("a", "b"), Comparison { a: other, b: answer("a") }]);
    assert_eq!(distinct.candidates.len(), 3);
    assert_eq!(distinct.places, [[0, 1], [2, 0]]);
}

const TABLE: &str = r#"
{"prompt":"why?","a":"yes","b":"no","preference":0.75}

{"prompt":"why?","a":"no","b":"yes","preference":0.25}
{"prompt":"why?","a":"maybe","b":"no","preference":1.0}
"#;

#[test]
fn a_recorded_pair_is_answered_in_either_order() {
    let mut table = Recorded::from_jsonl(TABLE.as_bytes()).expect("consistent");
    assert_eq!(table.len(), 2);
    let asked = [pair("yes", "no"), pair("no", "yes"), pair("no", "maybe"), pair("new", "new")];
    let found = table.prefer(&asked).expect("recorded");
    assert_eq!(found.iter().map(|p| p.get()).collect::<Vec<_>>(), [0.75, 0.25, 0.0, 0.5]);
    let error = table.prefer(&[pair("yes", "maybe")]).expect_err("not recorded");
    assert_eq!(
        error.to_string(),
        "preference of \"yes\" over \"maybe\" for the prompt \"why?\": expected a recorded pair, found none"
    );
    let elsewhere = Candidate { prompt: "how?", ..answer("yes") };
    assert!(
        table
            .prefer(&[Comparison { a: elsewhere, b: Candidate { prompt: "how?", ..answer("no") } }])
            .is_err()
    );
}

#[test]
fn a_table_that_contradicts_itself_is_refused_with_its_line() {
    let refused =
        |line: &str| Recorded::from_jsonl(format!("{TABLE}{line}").as_bytes()).expect_err("refused");
    assert_eq!(
        refused(r#"{"prompt":"why?","a":"no","b":"yes","preference":0.3}"#).to_string(),
        "record 6: preference: expected 0.25, as an earlier record of this pair says, found 0.3 (prompt \"why?\", \
         a \"no\", b \"yes\")"
    );
    assert_eq!(
        refused(r#"{"prompt":"why?","a":"no","b":"no","preference":0.3}"#).to_string(),
        "record 6: preference: expected 0.5 for an answer against itself, found 0.3 (prompt \"why?\", a \"no\", b \
         \"no\")"
    );
    let error = refused(r#"{"prompt":"why?","a":"no","b":"yes","preference":1.3}"#).to_string();
    assert!(error.starts_with("record 6: (line): expected an object of prompt, a, b and preference, found "));
    assert!(error.contains("Prob: expected a number from 0 to 1, found 1.3"), "{error}");
}
