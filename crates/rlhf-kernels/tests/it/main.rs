//! Fused against plain, against numbers by hand, and bit for bit over thread counts.

mod against_plain;
mod by_hand;
mod common;
mod repeats;
mod slices;
mod wrong;
