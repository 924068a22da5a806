//! rlhf examples
