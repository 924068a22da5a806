//! Exact preference games.
