//! The binary `rlhf` as its users meet it: runs that are repeated, killed, interrupted and resumed;
//! bad input; what each command prints.

mod bad_data;
mod bad_numbers;
mod bad_usage;
mod commands;
mod files;
mod folders;
mod full_disk;
mod grpo;
mod interrupted;
mod killed;
mod rspo;
mod same;
mod support;
