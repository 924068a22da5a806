//! The fused log-probability against the plain one: time and peak memory of a value and a gradient
//! into the hidden states and the head.
//!
//! ```text
//! cargo bench -p rlhf-laws -p rlhf --bench fused                               # divan: time, allocations
//! cargo bench -p rlhf-laws -p rlhf --bench fused -- interleaved [ROUNDS [TILE]]  # ratios, peaks
//! ```
//!
//! Both packages are named so that Burn has the features of the binary (`rayon`, `simd`,
//! `x86-v4`). Batch [8, 512], V = 32,000, H = 512, on flex. `plain` makes all logits, takes
//! `token_logp`, its mean and the gradients; `fused` does the same by `fused_logp`. `frozen` has no
//! gradient into the head.
//!
//! On a machine that others use, two benchmarks one after the other compare its moods. So
//! `interleaved` runs rounds of all four and takes ratios within a round; each peak is that of a
//! process of its own (`VmHWM`, Linux), with and without what the inputs alone need.

#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::env;
use std::fs;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::process::Command;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rlhf_core::fused::{FusedConfig, Head, TILE, fused_logp};
use rlhf_core::logp::token_logp;
use rlhf_core::number::Positive;
use rlhf_core::rng::stream;

const M: usize = 8 * 512;
const V: usize = 32_000;
const H: usize = 512;

/// What is measured.
const KINDS: [&str; 4] = ["plain", "fused", "plain-frozen", "frozen"];

struct Inputs {
    hidden: Tensor<2>,
    weight: Tensor<2>,
    tokens: Tensor<1, Int>,
    config: FusedConfig,
}

impl Inputs {
    fn new(tile: NonZeroUsize) -> Self {
        let device = Device::flex().autodiff();
        let mut rng = stream(1, "bench", 0, 0);
        let mut matrix = |rows: usize| {
            // Logits of size 1.
            let values: Vec<f32> = (0..rows * H).map(|_| (rng.random::<f32>() - 0.5) * 0.36).collect();
            Tensor::<2>::from_data(TensorData::new(values, [rows, H]), &device)
        };
        let (hidden, weight) = (matrix(M) * 4.0, matrix(V));
        let tokens: Vec<i64> = (0..M).map(|i| (i * 7919 % V) as i64).collect();
        let tokens = Tensor::from_data(TensorData::new(tokens, [M]), &device);
        let config = FusedConfig { tile, ..FusedConfig::new(Positive::new(1.0).expect("positive")) };
        Self { hidden, weight, tokens, config }
    }

    /// One value, and the gradients into the hidden states and the head.
    fn run(&self, kind: &str) -> (Tensor<1>, [Option<Tensor<2>>; 2]) {
        let hidden = self.hidden.clone().detach().require_grad();
        let frozen = kind.ends_with("frozen");
        let weight = self.weight.clone().detach();
        let weight = if frozen { weight.inner() } else { weight.require_grad() };
        let tokens = self.tokens.clone();
        let (loss, grads) = if kind.starts_with("plain") {
            let logits = hidden.clone().matmul(weight.clone().transpose());
            let loss = token_logp(logits, tokens).mean().neg();
            let grads = loss.backward();
            (loss, grads)
        } else {
            let head = Head { weight: weight.clone(), bias: None };
            let out = fused_logp(self.config, hidden.clone(), &head, tokens);
            let loss = out.logp.mean().neg();
            let grads = out.head.backward(&loss);
            (loss, grads)
        };
        (loss, [hidden.grad(&grads), weight.grad(&grads)])
    }
}

/// Σ |x| on the host, and a hash (FNV-1a) of the bits: the same whatever the number of threads.
fn digest<const D: usize>(x: Tensor<D>) -> String {
    let values: Vec<f32> = x.into_data().try_into_vec().expect("f32");
    let sum: f64 = values.iter().map(|x| f64::from(x.abs())).sum();
    let mix = |hash: u64, x: &f32| (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3);
    format!("{sum:.6} ({:016x})", values.iter().fold(0xcbf2_9ce4_8422_2325, mix))
}

#[global_allocator]
static ALLOC: divan::AllocProfiler = divan::AllocProfiler::system();

/// One value and its gradients.
#[divan::bench(args = KINDS, sample_count = 5, sample_size = 1)]
fn value_and_gradient(bencher: divan::Bencher<'_, '_>, kind: &str) {
    let inputs = Inputs::new(TILE);
    bencher.bench_local(|| inputs.run(kind));
}

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|a| a != "--bench").collect();
    match args.split_first() {
        Some((flag, [kind, tile])) if flag == "--peak" => peak(kind, tile.parse().expect("a number")),
        Some((word, rest)) if word == "interleaved" => interleaved(rest),
        _ => divan::main(),
    }
}

fn interleaved(args: &[String]) {
    let number = |i: usize, absent: usize| args.get(i).map_or(absent, |a| a.parse().expect("a number"));
    let (rounds, tile) = (number(0, 5).max(1), number(1, TILE.get()));
    let inputs = Inputs::new(NonZeroUsize::new(tile).expect("not zero"));
    println!("[8, 512, {V}], hidden {H}, tile {tile}; loss, Σ |d hidden|, Σ |d weight| (bits):");
    for kind in KINDS {
        let (loss, grads) = inputs.run(kind);
        let grads: Vec<String> = grads.into_iter().flatten().map(digest).collect();
        println!("{kind:>14} {} {}", digest(loss), grads.join(" "));
    }
    let mut times = vec![[Vec::new(), Vec::new()]; KINDS.len()];
    for _ in 0..rounds {
        for (kind, [wall, cpu]) in KINDS.iter().zip(&mut times) {
            let (start, before) = (Instant::now(), cpu_seconds());
            black_box(inputs.run(kind));
            wall.push(start.elapsed().as_secs_f64());
            cpu.push(cpu_seconds() - before);
        }
    }
    let memory: Vec<f64> = ["none"].iter().chain(&KINDS).map(|kind| child(kind, tile)).collect();
    for (i, kind) in KINDS.iter().enumerate() {
        let plain = i / 2 * 2;
        for (what, clock) in ["wall", "cpu"].into_iter().enumerate().map(|(k, what)| (what, k)) {
            let (own, of) = (&times[i][clock], &times[plain][clock]);
            let ratios = own.iter().zip(of).map(|(a, b)| a / b).collect();
            println!("{kind:>14} {what:>4} {} s, {} of its plain", spread(own.clone()), spread(ratios));
        }
        let (peak, of) = (memory[i + 1] - memory[0], memory[plain + 1] - memory[0]);
        println!(
            "{kind:>14} peak {peak:.0} MiB above the inputs, {:.3} of its plain ({:.0} MiB in all)",
            peak / of,
            memory[i + 1]
        );
    }
}

/// Seconds that all threads of this process have computed, user and system.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<f64>().expect("ticks"));
    // Linux counts in hundredths whatever its clock is.
    ticks.sum::<f64>() / 100.0
}

/// Median, least and largest.
fn spread(mut x: Vec<f64>) -> String {
    x.sort_by(f64::total_cmp);
    format!("{:.3} ({:.3}..{:.3})", x[x.len() / 2], x[0], x[x.len() - 1])
}

/// Runs a kind once and prints this process's peak in MiB.
fn peak(kind: &str, tile: usize) {
    let inputs = Inputs::new(NonZeroUsize::new(tile).expect("not zero"));
    if KINDS.contains(&kind) {
        black_box(inputs.run(kind));
    }
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|l| l.starts_with("VmHWM")).expect("a peak");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    println!("{}", kib / 1024.0);
}

fn child(kind: &str, tile: usize) -> f64 {
    let program = env::current_exe().expect("this program");
    let out = Command::new(program).args(["--peak", kind, &tile.to_string()]).output().expect("a process");
    String::from_utf8_lossy(&out.stdout).trim().parse().expect("a number")
}
