//! The ground of a pipeline over a language model: the task's texts, the tokenizer, the start policy, and its
//! supervised fine-tuning.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use rand::seq::SliceRandom;
use rlhf_core::rng::stream;
use rlhf_policy::batch::Sequence;
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::sft;
use rlhf_policy::tokenizer::Tokenizer;

use crate::config::{Common, TaskName, TaskSection, VerifierSection};
use crate::data::{Given, Scale};
use crate::error::Error;
use crate::pipeline::fit::{FitPlan, Shown, fit};
use crate::pipeline::models::{self, Language};
use crate::pipeline::page;
use crate::pipeline::session::Session;
use crate::task::arithmetic::Difficulty;
use crate::task::files::{self, Files};
use crate::task::ratings::{self, RatingsFile};
use crate::task::{Sizes, TaskData, answers, arithmetic, descriptions, restaurants, word_problems};

/// Sequences a forward pass when nothing is learned.
const EVAL_ROWS: usize = 64;

mod ask;
mod lengths;

pub use ask::{Answer, answer, generation, perplexity, sampled, sequence_kl};

/// What every phase needs and none changes.
#[derive(Debug)]
pub struct Ground {
    /// Texts.
    pub data: TaskData,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// The policy's `config.json`.
    pub decoder: DecoderConfig,
    /// p₀ on the plain device.
    pub prior: Decoder,
    /// Tokens of the prompts that train.
    pub train_prompts: Vec<Vec<u32>>,
    /// Tokens of the prompts that evaluate.
    pub eval_prompts: Vec<Vec<u32>>,
}

impl Ground {
    /// Makes the task, the tokenizer and the untrained policy.
    ///
    /// # Errors
    /// Data or a model folder that cannot be used, a prompt that leaves no room for its completion.
    pub fn prepare(config: &Common<'_>, session: &Session) -> Result<Self, Error> {
        let mut data = task_data(config.task, config.verifier, config.seed)?;
        if data.eval_prompts.len() < 2 {
            let expected = "at least 2, since self-similarity compares answers to different prompts";
            let found = data.eval_prompts.len().to_string();
            return Err(Error::config("config", "task.n_eval_prompts", expected, found));
        }
        let folder =
            (!config.policy.path.is_empty()).then(|| crate::hub::model(Path::new(&config.policy.path)));
        let folder = folder.transpose()?;
        let folder = folder.as_deref();
        if folder.is_none() && data.sft.is_empty() {
            let expected = "records to train a policy from scratch on, or policy.path with a trained one";
            return Err(Error::config("config", "task.sft_path", expected, "neither"));
        }
        let tokenizer = match folder {
            Some(dir) => Tokenizer::load(dir)?,
            None => models::train_tokenizer(&data.tokenizer_texts(), config.policy.vocab_size.get())?,
        };
        let (decoder, prior) = match folder {
            Some(dir) => {
                let decoder = DecoderConfig::load(dir)?;
                models::check_vocabulary(dir, &tokenizer, &decoder)?;
                let prior = models::load_decoder(dir, &decoder, &session.plain)?;
                (decoder, prior)
            }
            None => {
                let size = tokenizer.vocab_size();
                let decoder = config.policy.decoder(size, tokenizer.eos(), tokenizer.pad())?;
                let prior = models::scratch_decoder(&decoder, config.seed, &session.plain)?;
                (decoder, prior)
            }
        };
        lengths::fit_context(config, &tokenizer, decoder.max_position_embeddings(), &mut data)?;
        let encode = |texts: &[String]| texts.iter().map(|t| prompt_ids(&tokenizer, t)).collect();
        let train_prompts = encode(&data.train_prompts);
        let eval_prompts = encode(&data.eval_prompts);
        Ok(Self { data, tokenizer, decoder, prior, train_prompts, eval_prompts })
    }

    /// Prompt and completion as tokens, the end token learned; cut at the context's end.
    pub fn sequence(&self, prompt: &str, completion: &str) -> Sequence {
        let prompt = self.prompt_ids(prompt);
        let mut completion = self.tokenizer.encode(completion);
        completion.push(self.tokenizer.eos());
        completion.truncate(self.decoder.max_position_embeddings().saturating_sub(prompt.len()));
        Sequence::new(&prompt, &completion)
    }

    /// Writes `model/`, with the weights that `phase` left behind, and `sft/`, the start policy.
    ///
    /// # Errors
    /// The disk; a phase that left other weights.
    pub fn save(&self, session: &Session, phase: &str) -> Result<(), Error> {
        let policy = models::filled(self.prior.clone(), session.finished(phase).unwrap_or_default())?;
        let language = Language { config: self.decoder.clone(), tokenizer: self.tokenizer.clone(), policy };
        language.save(&session.paths().model())?;
        Language { policy: self.prior.clone(), ..language }.save(&session.paths().root().join("sft"))
    }

    /// A prompt's tokens as a reward model reads them: none for an empty one.
    pub fn reward_prompt_ids(&self, prompt: &str) -> Vec<u32> {
        let start = self.tokenizer.start().into_iter();
        start.chain(self.tokenizer.encode(prompt)).collect()
    }

    /// A prompt's tokens, after the token that starts a text; an empty prompt starts from the end
    /// token, as GPT-2's documents do.
    pub fn prompt_ids(&self, prompt: &str) -> Vec<u32> {
        prompt_ids(&self.tokenizer, prompt)
    }
}

/// Which of `n` prompts come in a round of `per_round`: without replacement until all were used, each pass in
/// an order of its own, drawn from (seed, purpose, pass).
pub fn in_turn(n: usize, per_round: usize, seed: u64, purpose: &str, round: u64) -> Vec<usize> {
    let (n, a) = (n as u64, per_round as u64);
    let mut orders: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    (round * a..(round + 1) * a)
        .map(|i| {
            let order = orders.entry(i / n).or_insert_with(|| {
                let mut order: Vec<usize> = (0..n as usize).collect();
                order.shuffle(&mut stream(seed, purpose, i / n, 0));
                order
            });
            order[(i % n) as usize]
        })
        .collect()
}

/// See [`Ground::prompt_ids`].
fn prompt_ids(tokenizer: &Tokenizer, prompt: &str) -> Vec<u32> {
    let mut ids: Vec<u32> = tokenizer.start().into_iter().collect();
    ids.extend(tokenizer.encode(prompt));
    if ids.is_empty() {
        ids.push(tokenizer.eos());
    }
    ids
}

/// A file that a config names must be there; an empty name is none.
///
/// # Errors
/// [`Error::Config`] that names the key.
pub fn existing(key: &str, path: &str) -> Result<(), Error> {
    if path.is_empty() || Path::new(path).exists() {
        return Ok(());
    }
    Err(Error::config("config", key, "a file", format!("{path}, which does not exist")))
}

/// The texts of `[task]`; `verifier` is there where the pipeline learns from a rule.
///
/// # Errors
/// A file that cannot be read or has too little in it; a verifiable task for a pipeline that learns from
/// comparisons.
pub fn task_data<'a>(
    section: &'a TaskSection,
    verifier: Option<&VerifierSection>,
    seed: u64,
) -> Result<TaskData, Error> {
    let sizes = Sizes {
        n_sft: section.n_sft.get(),
        n_preferences: section.n_preferences.get(),
        n_prompts: section.n_prompts.get(),
        n_eval_prompts: section.n_eval_prompts.get(),
    };
    if !matches!(section.name, TaskName::Restaurants | TaskName::Arithmetic) {
        check_files(section)?;
    }
    match section.name {
        TaskName::Restaurants => restaurants::restaurants(seed, &sizes),
        TaskName::Ratings => {
            let file = RatingsFile {
                path: Path::new(&section.path),
                scale: Scale { min: section.rating_min, max: section.rating_max, given: Given::Ratings },
                on_bad_record: section.on_bad_record,
                prompt_words: section.prompt_words.get(),
            };
            ratings::load(seed, &sizes, &file)
        }
        TaskName::Files => {
            // Before anything is trained, not when the rewards' turn comes.
            if section.preference_path.is_empty() {
                let expected = "preference records, from which both rewards learn";
                return Err(Error::config("config", "task.preference_path", expected, "none"));
            }
            let path = |text: &'a str| (!text.is_empty()).then(|| Path::new(text));
            let files = Files {
                prompts: Path::new(&section.path),
                sft: path(&section.sft_path),
                preferences: path(&section.preference_path),
                on_bad_record: section.on_bad_record,
            };
            files::files(seed, &sizes, &files)
        }
        TaskName::Answers | TaskName::Arithmetic | TaskName::Descriptions | TaskName::WordProblems => {
            let Some(verifier) = verifier else {
                let expected = "restaurants, ratings or files: this pipeline learns from comparisons";
                let found = "a task whose answers a rule checks";
                return Err(Error::config("config", "task.name", expected, found));
            };
            verifiable(section, verifier, seed, &sizes)
        }
    }
}

/// The texts of a task with a rule.
fn verifiable(
    section: &TaskSection,
    verifier: &VerifierSection,
    seed: u64,
    sizes: &Sizes,
) -> Result<TaskData, Error> {
    let (path, on_bad_record) = (Path::new(&section.path), section.on_bad_record);
    let second = (!section.sft_path.is_empty()).then(|| Path::new(&section.sft_path));
    match section.name {
        TaskName::Answers => answers::load(seed, sizes, path, on_bad_record),
        TaskName::Descriptions => {
            let (split, venue) = (verifier.split, verifier.venue);
            let source = descriptions::Source { path, second, split, venue, on_bad_record };
            descriptions::load(seed, sizes, &source)
        }
        TaskName::WordProblems => {
            word_problems::load(seed, sizes, &word_problems::Source { path, second, on_bad_record })
        }
        _ => {
            let difficulty = Difficulty { n_digits: verifier.n_digits, fault_share: verifier.fault_share };
            arithmetic::arithmetic(seed, sizes, &difficulty)
        }
    }
}

/// The files that `[task]` names are there, its first one among them.
fn check_files(section: &TaskSection) -> Result<(), Error> {
    let files = [
        ("path", &section.path),
        ("sft_path", &section.sft_path),
        ("preference_path", &section.preference_path),
    ];
    for (key, path) in files {
        existing(&format!("task.{key}"), path)?;
    }
    if section.path.is_empty() {
        return Err(Error::config("config", "task.path", "a file", "none"));
    }
    Ok(())
}

/// A policy as the phases hand it on: with autodiff for training.
#[derive(Debug, Clone)]
pub struct Start {
    /// On the autodiff device.
    pub policy: Decoder,
}

impl Start {
    /// The same weights on the plain device.
    pub fn valid_copy(&self) -> Decoder {
        self.policy.valid()
    }
}

/// Task, tokenizer and start policy, whose weights then are the prior's.
///
/// # Errors
/// Whatever stops preparation or supervised fine-tuning.
pub fn prepared(config: &Common<'_>, session: &mut Session) -> Result<(Ground, Start), Error> {
    let ground = Ground::prepare(config, session)?;
    trained(ground, config, session)
}

/// As [`prepared`], from a ground that a pipeline looked at before anything is trained.
///
/// # Errors
/// Whatever stops supervised fine-tuning.
pub fn trained(
    mut ground: Ground,
    config: &Common<'_>,
    session: &mut Session,
) -> Result<(Ground, Start), Error> {
    for note in &ground.data.notes {
        session.progress.say(&format!("data: {note}"));
    }
    let start = sft(config, &ground, session)?;
    ground.prior = start.valid_copy();
    Ok((ground, start))
}

/// The policy after supervised fine-tuning, and its perplexity on held-out text.
///
/// # Errors
/// Whatever stops the phase.
fn sft(config: &Common<'_>, ground: &Ground, session: &mut Session) -> Result<Start, Error> {
    let untrained = on_device(ground, session)?;
    if let Some(bytes) = session.finished("sft") {
        return Ok(Start { policy: models::filled(untrained, bytes)? });
    }
    let sequences: Vec<Sequence> =
        ground.data.sft.iter().map(|e| ground.sequence(&e.prompt, &e.completion)).collect();
    let sequences: Vec<Sequence> = sequences.into_iter().filter(|s| s.n_targets() > 0).collect();
    let c = &config.sft;
    let plan = FitPlan {
        phase: "sft".to_owned(),
        seed: config.seed,
        n_rows: sequences.len(),
        n_epochs: c.num_train_epochs,
        batch_size: c.batch_size,
        learning_rate: c.learning_rate.get(),
        schedule: c.lr_scheduler_type,
        warmup_ratio: c.warmup_ratio.get(),
        optim: config.adam.with(c.weight_decay, c.max_grad_norm),
        save_steps: config.save_steps,
    };
    let (micro, pad) = (c.micro_batch_size.get(), ground.tokenizer.pad());
    let n_blocks = ground.decoder.architecture().layers.len();
    let policy = fit(session, &plan, untrained, &mut |policy, step, rows| {
        let window: Vec<&Sequence> = rows.iter().map(|r| &sequences[*r]).collect();
        // One set of blocks a step, whatever the micro-batches.
        let mut random = stream(config.seed, "sft/layer_drop", step, 0);
        let blocks = sft::kept_blocks(n_blocks, c.layer_drop, &mut random);
        let (grads, loss) = sft::gradients_through(policy, &blocks, &window, micro, pad);
        let n = window.iter().map(|s| s.n_targets()).sum::<usize>() as f64;
        Shown { grads, values: BTreeMap::from([("loss".to_owned(), loss), ("num_tokens".to_owned(), n)]) }
    })?;
    // A task without references keeps the policy as it was loaded, and has no text to measure it on.
    if let Some([token, word]) = held_out_perplexity(ground, &policy.valid()) {
        if !token.is_finite() {
            let term = "sft: held-out perplexity".to_owned();
            return Err(Error::NotFinite { step: session.step(), term, value: token });
        }
        session.put("sft/perplexity", &token)?;
        session.put("sft/word_perplexity", &word)?;
        let word = page::readable(word);
        session.progress.say(&format!("sft: held-out perplexity {token:.1} a token, {word} a word"));
    }
    let bytes = models::bytes_of(&policy)?;
    session.finish_phase("sft", Some(bytes))?;
    Ok(Start { policy })
}

fn on_device(ground: &Ground, session: &Session) -> Result<Decoder, Error> {
    // Copied through the host, so that the prior and the policy share no storage.
    let copy = models::scratch_decoder(&ground.decoder, 0, &session.device)?;
    models::filled(copy, &models::bytes_of(&ground.prior)?)
}

/// `exp` of the held-out cross-entropy a token, and a word: words are runs between white space, the
/// end counts as one, and unknown words do not exist for a byte-level tokenizer. Prompts are read,
/// not scored. `None` where the task holds nothing out.
fn held_out_perplexity(ground: &Ground, policy: &Decoder) -> Option<[f64; 2]> {
    let data = &ground.data.sft_heldout;
    let all: Vec<(Sequence, usize)> = data
        .iter()
        .map(|e| (ground.sequence(&e.prompt, &e.completion), e.completion.split_whitespace().count() + 1))
        .filter(|(s, _)| s.n_targets() > 0)
        .collect();
    if all.is_empty() {
        return None;
    }
    let rows: Vec<&Sequence> = all.iter().map(|(s, _)| s).collect();
    let (sum, n) = sft::evaluate(policy, &rows, EVAL_ROWS, ground.tokenizer.pad());
    let words: usize = all.iter().map(|(_, n)| n).sum();
    Some([(sum / n as f64).exp(), (sum / words as f64).exp()])
}

#[cfg(test)]
mod tests {
    use rlhf_core::number::Prob;

    use super::*;
    use crate::task::descriptions::{Split, Venue};

    fn section(name: &str, path: &str) -> TaskSection {
        let text = format!(
            "name = {name:?}\npath = {path:?}\nsft_path = \"\"\npreference_path = \"\"\nn_sft = 20\nn_preferences = 1\n\
             n_prompts = 10\nn_eval_prompts = 5\nprompt_words = 2\nrating_min = 0.0\nrating_max = 1.0\n\
             on_bad_record = \"fail\""
        );
        toml::from_str(&text).expect("a section")
    }

    fn verifier() -> VerifierSection {
        let n_digits = std::num::NonZeroUsize::new(2).expect("not 0");
        VerifierSection { n_digits, fault_share: Prob::ZERO, split: Split::Official, venue: Venue::Checked }
    }

    #[test]
    fn a_verifiable_task_needs_a_pipeline_with_a_verifier() {
        let arithmetic = section("arithmetic", "");
        let data = task_data(&arithmetic, Some(&verifier()), 0).expect("good sizes");
        assert!(data.verify.is_some() && data.sft.len() == 20);
        let error = task_data(&arithmetic, None, 0).expect_err("no verifier").to_string();
        assert!(error.starts_with("config: task.name: expected restaurants, ratings or files"), "{error}");
    }

    #[test]
    fn files_that_are_missing_are_named_by_key() {
        for name in ["answers", "descriptions", "word_problems"] {
            let message = |path| {
                task_data(&section(name, path), Some(&verifier()), 0).expect_err("no file").to_string()
            };
            assert_eq!(message(""), "config: task.path: expected a file, found none");
            assert_eq!(
                message("/no.csv"),
                "config: task.path: expected a file, found /no.csv, which does not exist"
            );
        }
    }
}
