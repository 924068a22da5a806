//! What a program sees that depends on the facade `rlhf` alone.

mod facade;
