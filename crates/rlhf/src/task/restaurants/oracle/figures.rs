//! What the two oracles say of a set of answers: how far they agree, how cyclic they are.

use rlhf_core::rng::stream;

use super::{Manner, OracleError, Reading, RestaurantOracle};
use crate::task::restaurants::grammar::{Faults, describe};
use crate::task::restaurants::random_meaning;
use crate::task::restaurants::words::{Meaning, words};

/// A preference nearer to ½ than this is a tie: texts that are worth the same differ by rounding only.
const TIE: f64 = 1e-9;

/// Several answers to one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// What was asked.
    pub prompt: String,
    /// What was answered.
    pub texts: Vec<String>,
}

/// `n_answers` references of each of `n_prompts` random prompts, as supervised fine-tuning sees them.
pub fn reference_answers(seed: u64, n_prompts: usize, n_answers: usize) -> Vec<Answers> {
    let answers = |i: u64| {
        let mut rng = stream(seed, "restaurants/oracle", i, 0);
        let meaning = random_meaning(&mut rng);
        let texts = (0..n_answers).map(|_| describe(&meaning, &Faults::REFERENCE, &mut rng)).collect();
        Answers { prompt: meaning.to_string(), texts }
    };
    (0..n_prompts as u64).map(answers).collect()
}

/// Shares of the texts that open in each manner; what is left opens in none.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MannerShares {
    /// [`Manner::Statement`].
    pub statement: f64,
    /// [`Manner::Invitation`].
    pub invitation: f64,
    /// [`Manner::Scene`].
    pub scene: f64,
}

/// Means over prompts, or shares of all pairs and triples of answers to one prompt. NaN where there is
/// nothing to count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OracleFigures {
    /// Answers.
    pub n_texts: usize,
    /// Pairs that neither oracle calls a tie.
    pub n_pairs: usize,
    /// Share of those pairs in which both prefer the same text.
    pub agreement: f64,
    /// Share of those pairs, of different length, in which the proxy prefers the longer text.
    pub longer_by_proxy: f64,
    /// The same of the truth.
    pub longer_by_truth: f64,
    /// Share of triples of which each text is preferred to the next by the proxy, in a circle.
    pub intransitive_by_proxy: f64,
    /// The same of the truth.
    pub intransitive_by_truth: f64,
    /// Share of prompts with an answer to which the truth prefers no other one; without circles it
    /// would be 1.
    pub unbeaten_by_truth: f64,
    /// How the answers open.
    pub manners: MannerShares,
    /// Words of an answer.
    pub words: f64,
    /// True win rate, against the uniform mixture of the answers, of the answer that the truth likes
    /// best against that mixture.
    pub best_by_truth: f64,
    /// True win rate of the answer that the proxy likes best against the mixture.
    pub best_by_proxy: f64,
    /// Words of the answer that the truth likes best.
    pub words_of_best_by_truth: f64,
    /// Words of the answer that the proxy likes best.
    pub words_of_best_by_proxy: f64,
}

impl OracleFigures {
    /// The figures as sentences for a report.
    pub fn sentences(&self) -> Vec<String> {
        let percent = |x: f64| format!("{:.1} %", 100.0 * x);
        let m = self.manners;
        vec![
            format!(
                "{} answers of {:.1} words: {} open as a statement, {} as an invitation, {} as a scene",
                self.n_texts,
                self.words,
                percent(m.statement),
                percent(m.invitation),
                percent(m.scene)
            ),
            format!(
                "Of {} pairs of answers to one prompt, proxy and truth prefer the same text in {}; the proxy takes the longer one in {}, the truth in {}",
                self.n_pairs,
                percent(self.agreement),
                percent(self.longer_by_proxy),
                percent(self.longer_by_truth)
            ),
            format!(
                "{} of the triples are a circle to the truth, {} to the proxy; in {} of the prompts some answer is beaten by no other one under the truth",
                percent(self.intransitive_by_truth),
                percent(self.intransitive_by_proxy),
                percent(self.unbeaten_by_truth)
            ),
            format!(
                "Against all answers to its prompt, the truth's best wins {} ({:.1} words) and the proxy's best {} ({:.1} words) under the truth",
                percent(self.best_by_truth),
                self.words_of_best_by_truth,
                percent(self.best_by_proxy),
                self.words_of_best_by_proxy
            ),
        ]
    }
}

/// Counts what the oracles say of each prompt's answers.
///
/// # Errors
/// A prompt that names no restaurant; `pair` is then its index.
pub fn oracle_figures(all: &[Answers]) -> Result<OracleFigures, OracleError> {
    let mut sums = Sums::default();
    for (pair, answers) in all.iter().enumerate() {
        let Some(meaning) = Meaning::parse(&answers.prompt) else {
            return Err(OracleError::Prompt { pair, prompt: answers.prompt.clone() });
        };
        sums.add(&meaning, &answers.texts);
    }
    Ok(sums.figures(all.len()))
}

/// The preferences of one oracle between the answers to one prompt.
struct Table(Vec<Vec<f64>>);

impl Table {
    fn new(oracle: RestaurantOracle, meaning: &Meaning, texts: &[String]) -> Self {
        let readings: Vec<Reading> = texts.iter().map(|text| oracle.read(meaning, text)).collect();
        Self(readings.iter().map(|a| readings.iter().map(|b| a.preference(*b)).collect()).collect())
    }

    /// Whether `a` is preferred to `b`, beyond a tie.
    fn wins(&self, a: usize, b: usize) -> bool {
        self.0[a][b] > 0.5 + TIE
    }

    /// Win rate of an answer against the uniform mixture, itself included.
    fn rate(&self, a: usize) -> f64 {
        self.0[a].iter().sum::<f64>() / self.0[a].len() as f64
    }

    /// The answer of the highest win rate; the first of equals.
    fn best(&self) -> Option<usize> {
        (0..self.0.len()).rev().max_by(|a, b| self.rate(*a).total_cmp(&self.rate(*b)))
    }

    /// Whether some answer loses to no other one.
    fn has_unbeaten(&self) -> bool {
        let n = self.0.len();
        (0..n).any(|a| !(0..n).any(|b| self.wins(b, a)))
    }

    fn is_circle(&self, a: usize, b: usize, c: usize) -> bool {
        (self.wins(a, b) && self.wins(b, c) && self.wins(c, a))
            || (self.wins(b, a) && self.wins(c, b) && self.wins(a, c))
    }

    /// Circles among the triples.
    fn n_circles(&self) -> usize {
        let n = self.0.len();
        let triples = (0..n).flat_map(|a| (a + 1..n).flat_map(move |b| (b + 1..n).map(move |c| (a, b, c))));
        triples.filter(|&(a, b, c)| self.is_circle(a, b, c)).count()
    }
}

/// Counts over all prompts.
#[derive(Default)]
struct Sums {
    texts: usize,
    manners: [usize; 3],
    words: usize,
    pairs: usize,
    agreed: usize,
    unequal: usize,
    longer: [usize; 2],
    triples: usize,
    circles: [usize; 2],
    unbeaten: usize,
    best_rate: [f64; 2],
    best_words: [usize; 2],
}

impl Sums {
    fn add(&mut self, meaning: &Meaning, texts: &[String]) {
        let lengths: Vec<usize> = texts.iter().map(|text| words(text).len()).collect();
        self.texts += texts.len();
        self.words += lengths.iter().sum::<usize>();
        for text in texts {
            match Manner::of(text) {
                Some(Manner::Statement) => self.manners[0] += 1,
                Some(Manner::Invitation) => self.manners[1] += 1,
                Some(Manner::Scene) => self.manners[2] += 1,
                None => {}
            }
        }
        let tables = [RestaurantOracle::PROXY, RestaurantOracle::TRUE]
            .map(|oracle| Table::new(oracle, meaning, texts));
        self.add_pairs(&tables, &lengths);
        let n = texts.len();
        self.triples += n * n.saturating_sub(1) * n.saturating_sub(2) / 6;
        self.unbeaten += usize::from(tables[1].has_unbeaten());
        for (i, table) in tables.iter().enumerate() {
            self.circles[i] += table.n_circles();
            if let Some(best) = table.best() {
                self.best_rate[i] += tables[1].rate(best);
                self.best_words[i] += lengths[best];
            }
        }
    }

    fn add_pairs(&mut self, tables: &[Table; 2], lengths: &[usize]) {
        let n = lengths.len();
        for (a, b) in (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b))) {
            if tables.iter().any(|table| !table.wins(a, b) && !table.wins(b, a)) {
                continue;
            }
            self.pairs += 1;
            self.agreed += usize::from(tables[0].wins(a, b) == tables[1].wins(a, b));
            if lengths[a] == lengths[b] {
                continue;
            }
            self.unequal += 1;
            for (i, table) in tables.iter().enumerate() {
                self.longer[i] += usize::from(table.wins(a, b) == (lengths[a] > lengths[b]));
            }
        }
    }

    fn figures(&self, n_prompts: usize) -> OracleFigures {
        let share = |hits: usize, of: usize| hits as f64 / of as f64;
        let mean = |sum: f64| sum / n_prompts as f64;
        let [statement, invitation, scene] = self.manners.map(|hits| share(hits, self.texts));
        OracleFigures {
            n_texts: self.texts,
            n_pairs: self.pairs,
            agreement: share(self.agreed, self.pairs),
            longer_by_proxy: share(self.longer[0], self.unequal),
            longer_by_truth: share(self.longer[1], self.unequal),
            intransitive_by_proxy: share(self.circles[0], self.triples),
            intransitive_by_truth: share(self.circles[1], self.triples),
            unbeaten_by_truth: share(self.unbeaten, n_prompts),
            manners: MannerShares { statement, invitation, scene },
            words: share(self.words, self.texts),
            best_by_truth: mean(self.best_rate[1]),
            best_by_proxy: mean(self.best_rate[0]),
            words_of_best_by_truth: mean(self.best_words[1] as f64),
            words_of_best_by_proxy: mean(self.best_words[0] as f64),
        }
    }
}
