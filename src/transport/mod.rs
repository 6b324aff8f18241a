//! Pure: one 5-tuple.
