//! The engine as what the schedule drives.

use rayon::prelude::*;

use super::blocks::{Pool, Table};
use super::forward::{Buffers, Place};
use super::schedule::Machine;
use super::{CHUNK, Engine};

/// Rows in shared blocks.
#[derive(Debug)]
pub(crate) struct Host {
    engine: Engine,
    pool: Pool,
    /// Of the rows that are decoded, in their order.
    tables: Vec<Table>,
    /// Of prompts that may still be continued.
    held: Vec<Option<Table>>,
    buffers: Buffers,
    places: Vec<Place>,
    wanted: Vec<usize>,
}

impl Host {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            pool: engine.pool(),
            engine,
            tables: Vec::new(),
            held: Vec::new(),
            buffers: Buffers::default(),
            places: Vec::new(),
            wanted: Vec::new(),
        }
    }
}

impl Machine for Host {
    fn prefill(&mut self, prompts: &[&[u32]]) -> Vec<Vec<f32>> {
        let mut tables: Vec<Table> = prompts.iter().map(|_| Table::default()).collect();
        let mut places = Vec::new();
        for (table, prompt) in prompts.iter().enumerate() {
            self.pool.extend(&mut tables[table], prompt.len());
            let place = |(position, token): (usize, &u32)| Place { table, position, token: *token };
            places.extend(prompt.iter().enumerate().map(place));
        }
        let mut logits = Vec::with_capacity(prompts.len());
        for chunk in places.chunks(CHUNK) {
            let last = |p: &Place| p.position + 1 == prompts[p.table].len();
            let wanted: Vec<usize> = (0..chunk.len()).filter(|i| last(&chunk[*i])).collect();
            self.engine.forward(chunk, &wanted, (&mut self.pool, &tables), &mut self.buffers);
            for row in 0..wanted.len() {
                let mut out = vec![0.0; self.engine.architecture.vocab_size];
                self.buffers.logits(row, &mut out);
                logits.push(out);
            }
        }
        self.held.extend(tables.into_iter().map(Some));
        logits
    }

    fn start(&mut self, prompts: &[usize]) {
        for prompt in prompts {
            let held = self.held[*prompt].as_ref().expect("not released");
            self.tables.push(self.pool.fork(held));
        }
    }

    fn release(&mut self, prompt: usize) {
        if let Some(table) = self.held[prompt].take() {
            self.pool.release(&table);
        }
    }

    fn decode(&mut self, tokens: &[u32], logits: &mut Vec<f32>) {
        self.places.clear();
        for (table, token) in tokens.iter().enumerate() {
            let position = self.tables[table].length();
            self.places.push(Place { table, position, token: *token });
            self.pool.extend(&mut self.tables[table], 1);
        }
        self.wanted.clear();
        self.wanted.extend(0..tokens.len());
        self.engine.forward(&self.places, &self.wanted, (&mut self.pool, &self.tables), &mut self.buffers);
        let v = self.engine.architecture.vocab_size;
        logits.resize(tokens.len() * v, 0.0);
        let buffers = &self.buffers;
        logits.par_chunks_exact_mut(v).enumerate().for_each(|(row, out)| buffers.logits(row, out));
    }

    fn keep(&mut self, alive: &[bool]) {
        let mut alive = alive.iter();
        let pool = &mut self.pool;
        self.tables.retain(|table| {
            let stays = *alive.next().expect("one a row");
            if !stays {
                pool.release(table);
            }
            stays
        });
    }
}
