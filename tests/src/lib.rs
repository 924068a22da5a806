//! rlhf tests
