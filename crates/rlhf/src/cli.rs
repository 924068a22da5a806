//! The command line: words to functions, errors to exit codes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rlhf::bench::{self, BenchOptions};
use rlhf::config::{self, Overrides};
use rlhf::core::host::sampling::Sampling;
use rlhf::data::{InspectOptions, OnBadRecord, inspect};
use rlhf::error::Error;
use rlhf::pipeline::{self, Start};
use rlhf::policy::chat::Now;
use rlhf::policy::hf::{FileType, Saving};
use rlhf::serve::{self, GenerateOptions, PromptKind, Prompts};
use rlhf::{bandit, device, game, golden, hub, plan};

/// Alignment of language models: exact, reproducible, one binary.
#[derive(Debug, Parser)]
#[command(name = "rlhf", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a pipeline: one of pipelines/ by its name (superhf, rspo, grpo, reward, …) or a config file
    Run(Run),
    /// Prints steps, tokens, memory and an estimate of time; runs nothing
    Plan(Configured),
    /// Logits of a model folder: {"input_ids":[[…]],"attention_mask":[[…]]} in, {"logits":[[[…]]]} out
    Logits(Ask),
    /// Completions of a model folder (JSONL out)
    Generate(Generate),
    /// Scores of a reward folder: lines {"text"}, {"input_ids"}, {"prompt","completion"} or {"messages"} in,
    /// {"reward"} out ({"logits"} where the classifier has several labels)
    Score(Ask),
    /// Runs golden files through the losses
    Golden(Golden),
    /// Exact bandits (JSON in, JSON out)
    #[command(after_help = bandit::HELP)]
    Bandit(OneFile),
    /// Exact preference games: equilibria and self-play (JSON in, JSON out)
    #[command(after_help = game::HELP)]
    Game(Game),
    /// Looks at a data file before training on it
    #[command(subcommand)]
    Data(Data),
    /// Rewrites report.html of run folders from report.json; several stand side by side
    Report(Report),
    /// Differences of two run folders
    Compare(Compare),
    /// Measures training steps, log-probabilities and generation in tokens a second
    Bench(Bench),
    /// A scratch-initialised model folder
    Init(Init),
    /// Writes a model folder anew, as f32, bf16 or f16, in one file or in shards
    Convert(Convert),
}

#[derive(Debug, Args)]
struct Configured {
    /// A built-in pipeline's name or the path of a TOML file
    config: String,
    /// Replaces one key, as in superhf.beta=0.1
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// flex, ndarray, cuda[:N], wgpu
    #[arg(long)]
    device: Option<String>,
    /// Of every random stream
    #[arg(long)]
    seed: Option<u64>,
    /// The smallest sizes that touch every part
    #[arg(long)]
    smoke: bool,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    configured: Configured,
    /// The run folder; runs/NAME by default
    #[arg(long)]
    out: Option<PathBuf>,
    /// Goes on with the run in the folder, with its own config.toml where no other flag is given
    #[arg(long)]
    resume: bool,
}

#[derive(Debug, Args)]
struct Ask {
    /// A Hugging Face folder
    #[arg(long)]
    model: PathBuf,
    /// The input file
    #[arg(long)]
    input: PathBuf,
    /// flex, ndarray, cuda[:N], wgpu
    #[arg(long, default_value = "flex")]
    device: String,
}

#[derive(Debug, Args)]
struct Generate {
    /// A Hugging Face folder
    #[arg(long)]
    model: PathBuf,
    /// One prompt
    #[arg(long, conflicts_with = "input", required_unless_present = "input")]
    prompt: Option<String>,
    /// A file of prompts (JSONL, CSV, TSV, Parquet)
    #[arg(long)]
    input: Option<PathBuf>,
    /// Prompts are conversations: the model's chat template writes them, and its own turn is generated.
    /// Lines {"messages":[{"role","content"}]}
    #[arg(long)]
    chat: bool,
    /// Most new tokens
    #[arg(long)]
    max_new_tokens: usize,
    /// The most likely token each time
    #[arg(long)]
    greedy: bool,
    /// Divides the logits
    #[arg(long, default_value_t = 1.0, conflicts_with = "greedy", allow_negative_numbers = true)]
    temperature: f64,
    /// Nucleus
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// 0 for off
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keeps tokens with at least this fraction of the largest probability
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f64,
    /// Divides positive and multiplies negative logits of tokens seen before
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f64,
    /// A text that ends a completion; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Of the random streams
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Completions a prompt
    #[arg(long, default_value_t = 1)]
    num_return_sequences: usize,
    /// flex, ndarray, cuda[:N], wgpu
    #[arg(long, default_value = "flex")]
    device: String,
}

#[derive(Debug, Args)]
struct Golden {
    /// Golden files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// flex, ndarray, cuda[:N], wgpu
    #[arg(long, default_value = "flex")]
    device: String,
}

#[derive(Debug, Args)]
struct OneFile {
    /// The input file, - for standard input
    file: PathBuf,
}

#[derive(Debug, Args)]
struct Game {
    /// The input file, - for standard input
    file: PathBuf,
    /// Draws the duality gap of each step as an SVG image
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Data {
    /// Prints the first rows with the scored part in ‹…›; refuses masks that train nothing or everything
    Inspect(Inspect),
}

#[derive(Debug, Args)]
struct Inspect {
    /// JSONL, CSV, TSV (each also .gz) or Parquet
    file: PathBuf,
    /// Rows shown
    #[arg(long, default_value_t = 5)]
    rows: usize,
    /// Longest sequence, in tokens; the rest is cut
    #[arg(long)]
    max_length: Option<usize>,
    /// A model folder or tokenizer.json; by default one is trained on the file
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// fail or skip
    #[arg(long, default_value = "fail", value_parser = parse_on_bad)]
    on_bad_record: OnBadRecord,
}

#[derive(Debug, Args)]
struct Report {
    /// Run folders
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Where the page goes; by default report.html of a single run, comparison.html of several
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Compare {
    /// A run folder
    a: PathBuf,
    /// Another
    b: PathBuf,
}

#[derive(Debug, Args)]
struct Bench {
    /// sft, dpo, dpo-cached, reward, logprobs, generate, generate-greedy, generate-shared, grpo, start; all
    /// by default. generate-deep and generate-nested (28 blocks, without and with 4 left out) when named
    workloads: Vec<String>,
    /// A model folder; by default a scratch Llama of ten million parameters
    #[arg(long)]
    model: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Repetitions after two warm-ups
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// flex, ndarray, cuda[:N], wgpu
    #[arg(long, default_value = "flex")]
    device: String,
    /// Of the CPU devices
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

#[derive(Debug, Args)]
struct Init {
    /// A config.json
    #[arg(long)]
    config: PathBuf,
    /// Of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The folder to make
    #[arg(long)]
    out: PathBuf,
    /// flex, ndarray, cuda[:N], wgpu
    #[arg(long, default_value = "flex")]
    device: String,
}

#[derive(Debug, Args)]
struct Convert {
    /// A Hugging Face folder
    #[arg(long)]
    model: PathBuf,
    /// The folder to make
    #[arg(long)]
    out: PathBuf,
    /// f32, bf16 or f16
    #[arg(long, default_value = "f32", value_parser = parse_dtype)]
    dtype: FileType,
    /// Most bytes of one file
    #[arg(long, default_value_t = Saving::default().max_shard_size)]
    max_shard_size: u64,
    /// flex, ndarray, cuda[:N], wgpu
    #[arg(long, default_value = "flex")]
    device: String,
}

fn parse_dtype(text: &str) -> Result<FileType, String> {
    FileType::of(text).ok_or_else(|| format!("expected f32, bf16 or f16, found {text}"))
}

fn parse_on_bad(text: &str) -> Result<OnBadRecord, String> {
    match text {
        "fail" => Ok(OnBadRecord::Fail),
        "skip" => Ok(OnBadRecord::Skip),
        other => Err(format!("expected fail or skip, found {other}")),
    }
}

/// Parses, runs, and turns an error into its exit code.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let takes_bad_records = matches!(cli.command, Command::Run(_) | Command::Plan(_) | Command::Data(_));
    match dispatch(cli.command, &mut io::stdout().lock()) {
        Ok(code) => code,
        // A reader that went away, as `head` does, is no failure.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            if let (Error::Record { line, .. }, true) = (&e, takes_bad_records)
                && *line > 0
            {
                eprintln!("hint: on_bad_record = \"skip\" leaves such records out and counts them");
            }
            ExitCode::from(e.exit_code())
        }
    }
}

fn dispatch(command: Command, out: &mut dyn Write) -> Result<ExitCode, Error> {
    match command {
        Command::Run(a) => run(&a, out)?,
        Command::Plan(a) => say(out, &plan::plan(&config::load(&a.config, &a.overrides())?)?)?,
        Command::Logits(a) => {
            serve::logits(&hub::model(&a.model)?, &a.input, &device::named(&a.device)?, out)?
        }
        Command::Generate(a) => generate(&a, out)?,
        Command::Score(a) => {
            serve::score(&hub::model(&a.model)?, &a.input, now(), &device::named(&a.device)?, out)?
        }
        Command::Golden(a) => return run_golden(&a, out),
        Command::Bandit(a) => say_json(out, &bandit::from_file(&a.file)?)?,
        Command::Game(a) => say_json(out, &game::from_file(&a.file, a.plot.as_deref())?)?,
        Command::Data(Data::Inspect(a)) => return run_inspect(&a, out),
        Command::Report(a) => report(&a, out)?,
        Command::Compare(a) => return compare(&a, out),
        Command::Bench(a) => run_bench(&a, out)?,
        Command::Init(a) => {
            let dir = serve::init(&a.config, a.seed, &a.out, &device::named(&a.device)?)?;
            say(out, &[dir.display().to_string()])?;
        }
        Command::Convert(a) => {
            let how = Saving { dtype: a.dtype, max_shard_size: a.max_shard_size };
            let dir = serve::convert(&hub::model(&a.model)?, &a.out, &how, &device::named(&a.device)?)?;
            say(out, &[dir.display().to_string()])?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Configured {
    fn overrides(&self) -> Overrides {
        Overrides { set: self.set.clone(), smoke: self.smoke, seed: self.seed, device: self.device.clone() }
    }
}

fn say(out: &mut dyn Write, lines: &[String]) -> Result<(), Error> {
    for line in lines {
        writeln!(out, "{line}").map_err(|e| Error::io("writing to", "standard output", e))?;
    }
    Ok(())
}

fn say_json(out: &mut dyn Write, value: &impl serde::Serialize) -> Result<(), Error> {
    say(out, &[serde_json::to_string_pretty(value).map_err(|e| Error::Failed(e.to_string()))?])
}

fn run(a: &Run, out: &mut dyn Write) -> Result<(), Error> {
    let overrides = a.configured.overrides();
    let folder = a.out.clone().unwrap_or_else(|| {
        let stem = Path::new(&a.configured.config).file_stem().unwrap_or_default().to_string_lossy();
        PathBuf::from("runs").join(if a.configured.smoke {
            format!("{stem}-smoke")
        } else {
            stem.into_owned()
        })
    });
    let saved = folder.join("config.toml");
    // What was in force goes on, unless the command line says it again.
    let effective = match saved.to_str() {
        Some(saved_path) if a.resume && overrides.is_empty() && saved.exists() => {
            let own = config::load(saved_path, &overrides)?;
            let named = config::load(&a.configured.config, &overrides).ok();
            if named.is_none_or(|named| named.text != own.text) {
                let (folder, config) = (folder.display(), &a.configured.config);
                eprintln!(
                    "note: {folder} goes on with its own config.toml, which is not {config} as it stands"
                );
            }
            own
        }
        _ => config::load(&a.configured.config, &overrides)?,
    };
    let start = if a.resume { Start::Resume } else { Start::Fresh };
    say(out, &pipeline::run(&effective, &folder, start)?.summary)
}

fn generate(a: &Generate, out: &mut dyn Write) -> Result<(), Error> {
    let sampling = Sampling {
        temperature: if a.greedy { 0.0 } else { a.temperature },
        top_p: a.top_p,
        top_k: a.top_k,
        min_p: a.min_p,
        repetition_penalty: a.repetition_penalty,
        ..Sampling::plain()
    };
    sampling
        .validate()
        .map_err(|e| Error::config("command line", e.what, e.expected, e.found.to_string()))?;
    let prompts = match (&a.prompt, &a.input, a.chat) {
        (Some(prompt), _, false) => Prompts::text(prompt),
        (Some(prompt), _, true) => Prompts::chat(prompt, now()),
        (None, Some(path), false) => {
            let loaded = rlhf::data::prompts(path, &Default::default())?.load(OnBadRecord::Fail)?;
            let texts = loaded.records.into_iter().map(|r| r.prompt).collect();
            Prompts { what: PromptKind::Texts(texts), from: Some(path.clone()) }
        }
        (None, Some(path), true) => {
            let what = PromptKind::Chats { chats: serve::chats(path)?, now: now() };
            Prompts { what, from: Some(path.clone()) }
        }
        (None, None, _) => Prompts { what: PromptKind::Texts(Vec::new()), from: None },
    };
    let options = GenerateOptions {
        max_new_tokens: a.max_new_tokens,
        sampling,
        seed: a.seed,
        num_return_sequences: a.num_return_sequences,
        stop: a.stop.clone(),
    };
    serve::completions(&hub::model(&a.model)?, &prompts, &options, &device::named(&a.device)?, out)
}

/// The time, for chat templates that print the date.
fn now() -> Now {
    let now = chrono::Local::now();
    Now { unix_seconds: now.timestamp(), utc_offset_seconds: now.offset().local_minus_utc() }
}

fn run_golden(a: &Golden, out: &mut dyn Write) -> Result<ExitCode, Error> {
    let outcome = golden::run(&a.files, &device::named(&a.device)?);
    say(out, &outcome.failures)?;
    say(out, &[format!("{} passed, {} failed", outcome.passed, outcome.failed)])?;
    Ok(if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_inspect(a: &Inspect, out: &mut dyn Write) -> Result<ExitCode, Error> {
    let options = InspectOptions {
        on_bad_record: a.on_bad_record,
        max_tokens: a.max_length,
        ..InspectOptions::sft(a.rows)
    };
    let tokenizer = match &a.tokenizer {
        Some(path) => Some(rlhf::policy::tokenizer::Tokenizer::load(path)?),
        None => None,
    };
    let inspection = inspect(&a.file, &options, tokenizer.as_ref())?;
    say(out, &[inspection.to_string()])?;
    if !inspection.end_is_scored() {
        eprintln!("error: {}: expected sequences that teach the model to stop, found none", a.file.display());
    }
    Ok(if inspection.end_is_scored() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(a: &Report, out: &mut dyn Write) -> Result<(), Error> {
    let mut reports = Vec::new();
    for run in &a.runs {
        let path = run.join("report.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("reading", &path, e))?;
        let mut report = rlhf::eval::report::from_json(&text)
            .map_err(|e| Error::record(&path, 0, "(file)", "a report", e.to_string()))?;
        if a.runs.len() > 1 {
            report.title = format!("{}: {}", report.title, run.display());
        }
        reports.push(report);
    }
    let page = rlhf::eval::report::html(&reports).map_err(|e| Error::Failed(format!("report: {e}")))?;
    // Several runs get a page of their own: none of theirs is written over.
    let to = match (&a.out, a.runs.as_slice()) {
        (Some(out), _) => out.clone(),
        (None, [run]) => run.join("report.html"),
        (None, _) => PathBuf::from("comparison.html"),
    };
    rlhf::run::atomic::write(&to, page.as_bytes())?;
    say(out, &[to.display().to_string()])
}

fn compare(a: &Compare, out: &mut dyn Write) -> Result<ExitCode, Error> {
    let comparison = rlhf::run::compare::compare(&a.a, &a.b)?;
    say_json(out, &comparison)?;
    Ok(if comparison.is_equal() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_bench(a: &Bench, out: &mut dyn Write) -> Result<(), Error> {
    device::threads(a.threads)?;
    let options = BenchOptions { workloads: a.workloads.clone(), runs: a.runs, model: a.model.clone() };
    let results = bench::run(&options, &device::named(&a.device)?)?;
    if a.json {
        say(out, &[serde_json::to_string(&results).map_err(|e| Error::Failed(e.to_string()))?])
    } else {
        let gain = bench::Gain::of(&results);
        say(
            out,
            &results.iter().map(ToString::to_string).chain(gain.map(|g| g.to_string())).collect::<Vec<_>>(),
        )
    }
}
