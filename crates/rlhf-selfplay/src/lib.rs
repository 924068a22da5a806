//! Regularised self-play for language models: exact games, RSPO and its relatives, Mutual-Taught.
