//! What a GRPO run will do and cost.

use super::{Basis, Work, basis, cost};
use crate::config::GrpoPipeline;
use crate::error::Error;

/// Tokens of a prompt, roughly.
const PROMPT: f64 = 20.0;

pub(super) fn plan(c: &GrpoPipeline) -> Result<Vec<String>, Error> {
    let Basis { data, parameters, probe, sft } = basis(&c.common(), &c.device, c.threads.get())?;
    let (g, e) = (&c.grpo, &c.evaluation);
    let longest = c.sampling.max_completion_length.get() as f64;
    let cells = c.variants.len() * e.seeds.get();
    let per_batch = (g.prompts_per_batch.get() * g.num_generations.get()) as f64;
    let rollouts = (cells * g.n_batches.get()) as f64 * per_batch;
    let target = (cells * g.n_batches.get() * e.target_prompts * g.num_generations.get()) as f64;
    let evaluations = (cells * g.n_batches.get().div_ceil(e.eval_batches.get()) + e.seeds.get()) as f64;
    // Greedy, sampled, and one for the KL.
    let evaluated = evaluations * data.eval_prompts.len() as f64 * (e.num_generations.get() + 2) as f64;
    let updates = cells * g.n_batches.get() * g.updates();
    let models = if g.beta.get() > 0.0 { 2.0 } else { 1.0 };
    let read = rollouts * (longest + PROMPT);
    let mut lines = vec![
        format!("task           {}", data.name),
        format!("policy         {parameters} parameters"),
        format!("sft            about {sft:.0} tokens read"),
        format!(
            "grpo           {cells} runs of {} batches of {} prompts, {rollouts:.0} samples, at most {:.0} tokens drawn, {updates} updates",
            g.n_batches,
            g.prompts_per_batch,
            rollouts * longest
        ),
        format!(
            "evaluation     {evaluations:.0} times on {} prompts, {evaluated:.0} samples",
            data.eval_prompts.len()
        ),
    ];
    let work = Work {
        trained: sft + g.num_iterations.get() as f64 * read,
        generated: (rollouts + target + evaluated) * longest,
        scored: models * read,
    };
    lines.extend(cost(probe, &work, parameters));
    lines.extend(data.notes.iter().map(|note| format!("data           {note}")));
    Ok(lines)
}
