//! Layer schedules, nested behaviour policies and off-policy corrections (Nested-ReFT).
