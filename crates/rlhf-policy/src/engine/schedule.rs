//! Which rows are computed when: a row that ends makes room for the next sample at once.

use std::collections::VecDeque;

use rand_chacha::ChaCha12Rng;
use rayon::prelude::*;
use rlhf_core::host::sampling::logp_of;

use crate::error::Error;
use crate::generate::{Finish, Generation, Rollout, Streams};

/// What computes rows. Rows have an order: those started last are last.
pub(crate) trait Machine {
    /// Computes prompts and holds them, each under the next number from 0 on. The result is the logits
    /// after each.
    fn prefill(&mut self, prompts: &[&[u32]]) -> Vec<Vec<f32>>;

    /// Adds a row for each prompt named; a prompt may be named more than once.
    fn start(&mut self, prompts: &[usize]);

    /// No more rows will start from this prompt.
    fn release(&mut self, prompt: usize);

    /// Appends one token to each row; `logits` becomes `[rows, V]`.
    fn decode(&mut self, tokens: &[u32], logits: &mut Vec<f32>);

    /// Drops the rows that are not alive.
    fn keep(&mut self, alive: &[bool]);
}

/// A row that is being continued.
struct Row {
    rng: ChaCha12Rng,
    /// Prompt and completion.
    history: Vec<u32>,
    /// The model's logits, where the sampling rules change them.
    raw: Vec<f32>,
    out: Rollout,
    ended: bool,
    /// A log-probability that was no number.
    broken: Option<f64>,
}

/// A prompt that is computed and has samples left to start.
struct Open {
    prompt: usize,
    held: usize,
    logits: Vec<f32>,
    started: usize,
}

/// Everything of one call.
struct Run<'a> {
    machine: &'a mut dyn Machine,
    prompts: &'a [Vec<u32>],
    how: &'a Generation,
    stream: &'a Streams<'a>,
    /// Prompts that are not computed yet.
    queue: VecDeque<usize>,
    open: VecDeque<Open>,
    n_held: usize,
    rows: Vec<Row>,
    logits: Vec<f32>,
    done: Vec<Rollout>,
}

/// Samples all completions on `machine`, in order of prompt and sample. Prompts have been checked, and
/// there is something to sample.
pub(crate) fn run(
    machine: &mut dyn Machine,
    prompts: &[Vec<u32>],
    how: &Generation,
    stream: &Streams<'_>,
) -> Result<Vec<Rollout>, Error> {
    // Prompts of like length go together: tensors pad less.
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|i| prompts[*i].len());
    let mut run = Run {
        machine,
        prompts,
        how,
        stream,
        queue: order.into(),
        open: VecDeque::new(),
        n_held: 0,
        rows: Vec::new(),
        logits: Vec::new(),
        done: Vec::new(),
    };
    let mut tokens = Vec::new();
    loop {
        while run.admit()? {}
        if run.rows.is_empty() {
            break;
        }
        tokens.clear();
        tokens.extend(run.rows.iter().map(|r| r.history[r.history.len() - 1]));
        run.machine.decode(&tokens, &mut run.logits);
        draw(&mut run.rows, &mut run.logits, how)?;
        run.sweep();
    }
    let mut done = run.done;
    done.sort_by_key(|r| (r.prompt, r.sample));
    Ok(done)
}

impl Run<'_> {
    /// Starts as many samples as there is room for and draws their first tokens; whether there may be
    /// room for more.
    fn admit(&mut self) -> Result<bool, Error> {
        let first = self.rows.len();
        let limit = self.how.max_rows.max(1);
        let (mut starts, mut finished) = (Vec::new(), Vec::new());
        self.logits.clear();
        while self.rows.len() < limit {
            if self.open.is_empty() && !self.compute(limit - self.rows.len()) {
                break;
            }
            let open = &mut self.open[0];
            let n = (self.how.num_generations - open.started).min(limit - self.rows.len());
            for sample in open.started..open.started + n {
                let tokens = &self.prompts[open.prompt];
                let rng = (self.stream)(open.prompt, sample);
                let room = self.how.max_completion_length;
                self.rows.push(Row::new([open.prompt, sample], tokens, room, rng));
                self.logits.extend_from_slice(&open.logits);
                starts.push(open.held);
            }
            open.started += n;
            if open.started == self.how.num_generations {
                finished.push(open.held);
                self.open.pop_front();
            }
        }
        if starts.is_empty() {
            return Ok(false);
        }
        self.machine.start(&starts);
        finished.into_iter().for_each(|held| self.machine.release(held));
        draw(&mut self.rows[first..], &mut self.logits, self.how)?;
        Ok(self.sweep())
    }

    /// Computes the next prompts, enough for `room` rows; false when none is left.
    fn compute(&mut self, room: usize) -> bool {
        let n = room.div_ceil(self.how.num_generations).min(self.queue.len());
        let next: Vec<usize> = self.queue.drain(..n).collect();
        if next.is_empty() {
            return false;
        }
        let prompts: Vec<&[u32]> = next.iter().map(|i| self.prompts[*i].as_slice()).collect();
        let logits = self.machine.prefill(&prompts);
        for (prompt, logits) in next.into_iter().zip(logits) {
            self.open.push_back(Open { prompt, held: self.n_held, logits, started: 0 });
            self.n_held += 1;
        }
        true
    }

    /// Takes rows that ended away; whether there were any.
    fn sweep(&mut self) -> bool {
        if !self.rows.iter().any(|r| r.ended) {
            return false;
        }
        let alive: Vec<bool> = self.rows.iter().map(|r| !r.ended).collect();
        self.machine.keep(&alive);
        let (ended, rows): (Vec<Row>, Vec<Row>) =
            std::mem::take(&mut self.rows).into_iter().partition(|r| r.ended);
        self.done.extend(ended.into_iter().map(|r| r.out));
        self.rows = rows;
        true
    }
}

/// Draws a token for each row from its logits, which are used up.
fn draw(rows: &mut [Row], logits: &mut [f32], how: &Generation) -> Result<(), Error> {
    let v = logits.len() / rows.len();
    let changes = how.sampling.changes_logits();
    rows.par_iter_mut()
        .zip(logits.par_chunks_mut(v))
        .for_each(|(row, logits)| row.draw(logits, how, changes));
    let broken = rows.iter().find_map(|r| Some((&r.out, r.broken?)));
    broken.map_or(Ok(()), |(out, value)| {
        let what = format!("logits of prompt {}, sample {}", out.prompt, out.sample);
        Err(Error::NotFinite { what, value })
    })
}

impl Row {
    fn new([prompt, sample]: [usize; 2], tokens: &[u32], room: usize, rng: ChaCha12Rng) -> Self {
        let out = Rollout {
            prompt,
            sample,
            tokens: Vec::with_capacity(room),
            behavior_logp: Vec::with_capacity(room),
            policy_logp: Vec::with_capacity(room),
            finish: Finish::Length,
        };
        let mut history = Vec::with_capacity(tokens.len() + room);
        history.extend_from_slice(tokens);
        Self { rng, history, raw: Vec::new(), out, ended: false, broken: None }
    }

    fn draw(&mut self, logits: &mut [f32], how: &Generation, changes: bool) {
        if changes {
            self.raw.clear();
            self.raw.extend_from_slice(logits);
        }
        let n_new = self.out.tokens.len();
        let drawn = how.sampling.choose(logits, &self.history, &how.eos_token_ids, n_new, &mut self.rng);
        if !drawn.logp.is_finite() {
            self.broken = Some(drawn.logp);
            return;
        }
        let policy = if changes { logp_of(&self.raw, drawn.token) } else { drawn.logp };
        self.history.push(drawn.token);
        self.out.tokens.push(drawn.token);
        self.out.behavior_logp.push(drawn.logp);
        self.out.policy_logp.push(policy);
        if how.eos_token_ids.contains(&drawn.token) {
            self.out.finish = Finish::Eos;
        } else if how.stop.as_ref().is_some_and(|stop| stop.is_in(&self.out.tokens)) {
            self.out.finish = Finish::Stop;
        }
        self.ended = self.out.finish != Finish::Length || self.out.tokens.len() >= how.max_completion_length;
    }
}
